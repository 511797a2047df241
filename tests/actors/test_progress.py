"""How far a download is, as it is told."""

from actors.progress import Progress, Reporter


def test_parts_are_added_up() -> None:
    told: list[Progress] = []
    report = Reporter(told.append, sizes={"a": 100, "b": 100})
    report.at("a", 50)
    report.at("b", 100)
    report.at("c", 10, 200)
    assert [(progress.have, progress.total) for progress in told] == [(50, 200), (150, 200), (160, 400)]
    assert (report.parts, report.total) == (3, 400)


def test_a_part_that_came_is_whole_and_one_that_was_there_is_none() -> None:
    told: list[Progress] = []
    report = Reporter(told.append)
    report.at("a", 5, 30)
    report.whole("a")
    report.whole("b")
    assert [(progress.have, progress.total) for progress in told] == [(5, 30), (30, 30)]


def test_a_part_is_never_more_than_all_of_it() -> None:
    told: list[Progress] = []
    Reporter(told.append).at("a", 40, 30)
    assert (told[0].have, told[0].total) == (40, 40)


def test_the_log_is_told_in_steps() -> None:
    logged: list[Progress] = []
    told: list[Progress] = []
    report = Reporter(told.append, logged.append, {"a": 1000})
    for have in range(0, 1001, 10):
        report.at("a", have)
    assert len(told) == 101
    assert logged[0].have == 100
    assert len(logged) in (9, 10), "a tenth is no exact number"
