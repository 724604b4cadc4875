"""Batches on their way to a shard: in order, one ahead of what is written, and errors come out."""

import threading

import pytest

from speakerlib.data.feature_shards import _one_ahead


def test_batches_come_in_order_and_at_most_one_is_worked_out_ahead():
    begun = []

    def batches():
        for number in range(6):
            begun.append((number, threading.current_thread()))
            yield number

    for taken, number in enumerate(_one_ahead(batches())):
        assert number == taken and len(begun) <= taken + 2
    assert [number for number, _ in begun] == [0, 1, 2, 3, 4, 5]
    assert threading.main_thread() not in [thread for _, thread in begun]
    assert list(_one_ahead(iter(()))) == []


def test_an_error_in_a_batch_is_raised_after_those_before_it_and_no_thread_stays():
    def batches():
        yield "first"
        raise OSError("the disk is gone")

    before, taken = threading.active_count(), []
    with pytest.raises(OSError, match="the disk is gone"):
        for batch in _one_ahead(batches()):
            taken.append(batch)
    assert taken == ["first"] and threading.active_count() == before


def test_a_writer_that_stops_leaves_no_thread():
    before, ahead = threading.active_count(), _one_ahead(iter("abc"))
    assert next(ahead) == "a"
    ahead.close()
    assert threading.active_count() == before
