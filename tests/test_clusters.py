"""A sweep as jobs of Slurm, which short scripts play: what is asked of it, and what becomes of jobs that end early."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests
import yaml
from test_sweeps import EXECUTE, STEPS, finish, people, wait_until, write

from speakerlib import cli
from speakerlib.data.files import data_folder as data_folder_now
from speakerlib.data.workers import DASHBOARD, dashboard_link, local_workers
from speakerlib.experiments import clusters, sweep_files, sweeps
from speakerlib.experiments.clusters import OPTIONS, job_script, job_sizes, read_options

SLURM = {  # command: a script of bash; $0's folder is the queue
    "sbatch": r"""
        [ -e "$here/refuses" ] && cat "$here/refuses" >&2 && exit 1
        [ "$1" = --test-only ] && { bash -n "$2"; exit; }
        id=$(( $(ls "$here/queue" | wc -l) + 101 ))
        cp "$1" "$here/queue/$id"
        out=$(sed -n 's/^#SBATCH -o //p' "$1"); out=${out//%j/$id}
        setsid bash "$here/queue/$id" > "$out" 2>&1 < /dev/null &
        echo $! > "$here/pids/$id"
        echo "Submitted batch job $id" """,
    "squeue": r"""cd "$here/pids"; for id in *; do kill -0 -- "-$(cat "$id")" 2> /dev/null && echo "$id"; done; true""",
    "scancel": r"""kill -TERM -- "-$(cat "$here/pids/$1")" """,
}


def options_file(folder, **options):
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump({"interface": "lo", "cores": 1, "threads": 1, "jobs": 2, **options}))
    return path


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A queue of this computer's processes, on the PATH; yields its folder."""
    here = tmp_path / "slurm"
    for name in ("queue", "pids"):
        (here / name).mkdir(parents=True)
    for name, script in SLURM.items():
        (here / name).write_text(f"#!/usr/bin/env bash\nhere={shlex.quote(str(here))}\n{script}\n")
        (here / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    monkeypatch.setattr(clusters, "_LOOK_SECONDS", 0.5)
    yield here
    for path in (here / "pids").iterdir():
        try:
            os.killpg(int(path.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue


def executed_elsewhere(*args):
    """Instead of sweeps.execute, in a job: the same, but for the notebook."""
    sweeps.run_notebook = pretend
    return EXECUTE(*args)


def pretend(notebook, parameters, title, quiet):
    place = data_folder_now()
    with open(place / "executed.txt", "a") as file:
        file.write(f"{title}\n")
    if (place / "job ends").exists() and (place / "job ends").read_text() in title:
        (place / "job ends").unlink()
        os.killpg(os.getpgid(0), signal.SIGKILL)
    if (place / "takes long").exists():
        time.sleep(600)
    finish(notebook, parameters)


@pytest.fixture
def pretended(data_folder, tmp_path, monkeypatch, slurm):
    """A sweep file of nine runs, none of which really runs."""
    monkeypatch.setattr(sweep_files, "find_corpus", people)
    monkeypatch.setattr(sweeps, "execute", executed_elsewhere)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # of the jobs
    data_folder.mkdir()
    return write(tmp_path, STEPS)


def sweep(path, options, *more):
    return cli.main(["sweep", str(path), "--cluster", "slurm", "--cluster-options", str(options), *more])


@pytest.mark.slow
def test_jobs_execute_the_sweep_and_one_that_ends_early_is_submitted_again(pretended, data_folder, tmp_path, slurm,
                                                                          capsys):
    (data_folder / "job ends").write_text("masked seed=1")
    options = options_file(tmp_path, cores=2, jobs=1)  # one job, two runs at once
    assert sweep(pretended, options) == 0
    said = capsys.readouterr().out
    assert "9 done of 9 runs" in said and "1 jobs submitted" in said and "dashboard: http://127.0.0.1:" in said
    names = (data_folder / "executed.txt").read_text().splitlines()
    assert len(set(names)) == 9 and names.count("masked seed=1") == 2
    assert len(list((slurm / "queue").iterdir())) == 2
    wait_until(lambda: not clusters._queued(), seconds=60)
    assert not (data_folder / "sweeps" / "some" / "keys").exists()


def drive(*arguments):
    """As `pretended` has it, in a process of its own."""
    clusters._LOOK_SECONDS, sweep_files.find_corpus, sweeps.execute = 0.5, people, executed_elsewhere
    return sweep(*arguments)


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_job_at_work_and_goes_on(pretended, data_folder, tmp_path, slurm):
    options = options_file(tmp_path)
    (data_folder / "takes long").touch()
    process = subprocess.Popen([sys.executable, "-c", "import sys, test_clusters; "
                                "test_clusters.drive(*sys.argv[1:])", str(pretended), str(options)],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_until(lambda: (data_folder / "executed.txt").exists(), process=process)
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not clusters._queued(), seconds=120)
    (data_folder / "takes long").unlink()
    assert sweep(pretended, options) == 0


def test_jobs_that_end_before_their_worker_starts_are_given_up_with_what_they_said(pretended, tmp_path, capsys):
    options = options_file(tmp_path, setup=["echo there is no such module", "exit 3"])
    assert sweep(pretended, options) == 2
    said = capsys.readouterr().err
    assert "3 jobs ended before their worker started" in said and "said: there is no such module (" in said


def test_a_job_that_slurm_refuses_is_said_before_anything_waits(pretended, data_folder, tmp_path, slurm, capsys):
    (slurm / "refuses").write_text("sbatch: error: invalid account")
    assert sweep(pretended, options_file(tmp_path)) == 2
    assert "Slurm refuses the job: sbatch: error: invalid account" in capsys.readouterr().err
    assert not (data_folder / "sweeps" / "some" / "keys").exists()


def test_without_slurm_or_a_network_interface_it_is_said_what_to_do(pretended, tmp_path, monkeypatch, capsys):
    assert sweep(pretended, options_file(tmp_path, interface=None)) == 2
    assert "interface=None: expected the network interface" in (said := capsys.readouterr().err) and " lo" in said
    monkeypatch.setenv("PATH", "/nowhere")
    assert sweep(pretended, options_file(tmp_path)) == 2
    assert "there is no `sbatch` on this computer" in (said := capsys.readouterr().err) and "login node" in said


def test_a_dry_run_prints_the_job_script_and_submits_nothing(pretended, data_folder, tmp_path, monkeypatch, slurm,
                                                           capsys):
    options = options_file(tmp_path, queue="long", account="phonetics", cores=8, threads=2, memory="24 GB",
                           walltime="1-12:00:00", setup=["module load cuda"], directives=["--gres=gpu:1"], jobs=5)
    assert sweep(pretended, options, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "9 to do, 9 at once with 2 threads each" in said and "each of 3 jobs" in said  # four runs in each
    told = re.findall(r"^#SBATCH (.*)", said, re.MULTILINE)
    assert {"-p long", "-A phonetics", "--cpus-per-task=8", "--mem=24G", "-t 1-12:00:00", "--gres=gpu:1",
            f"-o {data_folder}/sweeps/some/jobs/%j.txt"} <= set(told)
    assert "\nmodule load cuda\n" in said and "--nworkers 4" in said and "--nthreads 1 " in said
    assert not list((slurm / "queue").iterdir()) and not (data_folder / "sweeps").exists()


def test_the_options_of_the_workbook_are_the_defaults_and_explain_each():
    assert vars(read_options()) == {name: default for name, (default, _, _) in OPTIONS.items()}
    text = (clusters.project_folder() / "notebooks" / "clusters" / "slurm.yaml").read_text()
    assert set(yaml.safe_load(text)) == set(OPTIONS)


@pytest.mark.parametrize(("option", "said"), [
    ({"que": "long"}, "'que'; did you mean 'queue'"), ({"queue": "a\nrm -rf ~"}, "queue='a"),
    ({"account": "$(id)"}, r"account='\$\(id\)'"), ({"walltime": 28800}, "in quotes"), ({"jobs": 0}, "jobs=0"),
    ({"memory": 16}, "such as 16 GB"), ({"memory": "1G; id"}, "memory="), ({"cores": True}, "cores=True"),
    ({"cores": 2, "threads": 4}, "threads=4 of a run"), ({"directives": ["--x\nid"]}, "directives="),
    ({"directives": ["id"]}, "directives="), ({"setup": "id"}, "setup='id'"), ({"setup": [""]}, "setup="),
    ({"interface": "lo; id"}, "interface="), ({"worker_interface": "-x y"}, "worker_interface="),
    ({"python": "a\nb"}, "python="), ({"setup": False}, "setup=False"), ({"directives": 0}, "directives=0"),
    ({"directives": {}}, "directives={}"), ({"memory": "0 GB"}, "memory='0 GB'"), ({"walltime": "0"}, "walltime='0'"),
    ({"walltime": "00:00:00"}, "walltime="), ({"walltime": "0-00:00"}, "walltime="), ({"queue": "-p"}, "queue='-p'"),
    ({"account": "--wrap=id"}, "account="),
])
def test_an_option_that_cannot_be_is_named(tmp_path, option, said):
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(option))
    with pytest.raises(ValueError, match=said):
        read_options(tmp_path / "cluster.yaml")


@pytest.mark.parametrize(("text", "said"), [("queue: a\njobs: 2\nqueue: b\n", "'queue' stands twice"),
                                            ("false", "holds False"), ("[]", "expected a mapping")])
def test_a_file_that_is_no_mapping_or_names_an_option_twice_is_refused(tmp_path, text, said):
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_options(tmp_path / "cluster.yaml")


def test_what_is_left_out_or_null_is_the_default(tmp_path):
    for text in ("", "setup: null\ndirectives: null\nqueue: null\nmemory: null\n"):
        (tmp_path / "cluster.yaml").write_text(text)
        assert vars(read_options(tmp_path / "cluster.yaml")) == vars(read_options())


def test_no_value_but_setup_is_ever_read_by_the_shell(tmp_path):
    python = tmp_path / "a b; $(touch pwned) `touch pwned` 'x"
    python.write_text('#!/bin/sh\necho "$2" "$3"\n')
    python.chmod(0o755)
    options = read_options(options_file(tmp_path, python=str(python), directives=["--comment=$(touch pwned) `id`"]))
    script = job_script(options, Path("/data/sweeps/some"), 1)
    ran = subprocess.run(["bash"], input=script, cwd=tmp_path, capture_output=True, text=True)
    assert ran.stdout.split() == ["distributed.cli.dask_worker", "tls://LOGIN-NODE:PORT"] and not ran.stderr
    assert not (tmp_path / "pwned").exists()
    with pytest.raises(ValueError, match="cannot name the folder.*Set SPEAKERLIB_DATA"):
        job_script(options, Path("/data/$(id) /sweeps/some"), 1)


def test_the_keys_of_a_sweep_are_for_its_user_alone(tmp_path):
    clusters._write_keys(tmp_path)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "ca.pem": 0o600, "cert.pem": 0o600, "key.pem": 0o600}


def test_there_are_no_more_jobs_than_runs_for_them(tmp_path):
    options = read_options(options_file(tmp_path, cores=8, threads=2, jobs=10))
    assert job_sizes(options, 60) == (10, 4, 2) and job_sizes(options, 5) == (2, 4, 2)
    assert job_sizes(options, 60, num_workers=6) == (2, 4, 2) and job_sizes(options, 60, num_threads=8) == (10, 1, 8)


@pytest.mark.parametrize("options", [["--cluster-options", "x.yaml"], ["--cluster", "slurm", "--scheduler", "tcp://x:1"]])
def test_options_that_do_not_go_together_are_refused(pretended, options, capsys):
    assert cli.main(["sweep", str(pretended), *options]) == 2
    assert "speakerlib: --cluster" in capsys.readouterr().err


def test_dask_listens_on_this_computer_alone_and_its_pages_only_show():
    with local_workers(2, dashboard=DASHBOARD) as client:
        link, own = dashboard_link(client), psutil.Process()
        listening = [at.laddr for process in (own, *own.children(recursive=True))
                     for at in process.net_connections("inet") if at.status == psutil.CONN_LISTEN]
        assert len(listening) >= 4 and {at.ip for at in listening} == {"127.0.0.1"}
        assert requests.get(link, timeout=30).status_code == 200 and "127.0.0.1:" in link
        assert requests.post(link.replace("status", "api/v1/retire_workers"), timeout=30).status_code == 404


def test_workers_without_pages_have_no_link():
    with local_workers(1) as client:
        assert dashboard_link(client) is None

