"""The command of the result tables: every table of both works, from run records."""

TABLE_EXAMPLES = """examples:
  speakerlib table                                   which tables there are, and what runs there are for them
  speakerlib table nine_cells --corpus so762
  speakerlib table masks --markdown
  speakerlib table one_network --corpus so762 -p front_end compact -p protocol corrected --latex
  speakerlib table verification --output paper       verification.md, .tex, and a .csv and .png of each table

Runs that cannot be compared (corpora, front ends, lengths of segments, protocols, budgets, trial lists) are never in
one table: each kind has its own; -p chooses among them. Conditions are columns. A cell that was not run says so, and
the command that fills it stands below."""


def add_table(add):
    """Adds it to the grammar; add(name, command, summary, epilog) returns a parser."""
    sub = add("table", table, "print a table of both works, published beside measured, from run records",
              TABLE_EXAMPLES)
    sub.add_argument("name", nargs="?", metavar="NAME", help="such as nine_cells; left out: which there are")
    sub.add_argument("--corpus", metavar="NAME", help="runs on this corpus alone")
    sub.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                     help="runs with this value alone, such as -p protocol corrected; may be repeated")
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--latex", action="store_true", help="as LaTeX (needs booktabs and graphicx)")
    form.add_argument("--markdown", action="store_true", help="as Markdown")
    sub.add_argument("--output", metavar="FOLDER", help="write Markdown, LaTeX, numbers and pictures to this folder")


def table(options):
    """Prints the tables, or writes them; without a name, which there are."""
    from speakerlib.experiments import result_tables

    if options.name is None:
        if options.corpus or options.parameter or options.output or options.latex or options.markdown:
            raise ValueError("which table? `speakerlib table` lists them; `speakerlib table NAME` shows one.")
        for name, line in result_tables.list_tables().iterrows():
            print(f"{name:<16}{line['shows']}\n{'':<16}complete runs: {line['runs']}")
        return
    found = result_tables.result_tables(options.name, options.corpus, **_given(options))
    if not options.output or options.latex or options.markdown:
        print(_text(found, options))
    if options.output:
        for path in [*result_tables.write_tables(found, options.output), *_pictures(found, options.output)]:
            print(f"{'% ' * options.latex}written: {path}")


def _given(options):
    from speakerlib.experiments.parameters import parse_value

    return {name: parse_value(value) for name, value in options.parameter}


def _text(tables, options):
    if options.latex:
        from speakerlib.experiments.latex import HEAD

        return "\n".join([HEAD, *(table.latex(number) for number, table in enumerate(tables, 1))])
    return "\n".join(table.markdown if options.markdown else table.text for table in tables)


def _pictures(tables, folder):
    from pathlib import Path

    from speakerlib.views import style
    from speakerlib.views.results import table_figures

    style.use_style()
    for number, table in enumerate(tables, 1):
        for end, figure in table_figures(table).items():
            yield style.save_figure(figure, Path(folder).expanduser() / f"{table.name}_{number}{end}.png")
