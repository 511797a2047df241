"""The limits of a key hold under any schedule."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.access.keys import Rights
from proxy.access.limits import DAY, MINUTE, Admission, Limiter, LimitReached, Use

MIDNIGHT = 20_000 * DAY


def refused(limiter: Limiter, rights: Rights, tokens: int, now: float) -> LimitReached:
    found = limiter.admit(rights, tokens, now)
    assert isinstance(found, LimitReached), found
    return found


def admitted(limiter: Limiter, rights: Rights, tokens: int, now: float) -> Admission:
    found = limiter.admit(rights, tokens, now)
    assert isinstance(found, Admission), found
    return found


def test_requests_at_the_same_time() -> None:
    limiter, rights = Limiter(), Rights(concurrent=2)
    first = admitted(limiter, rights, 0, MIDNIGHT)
    admitted(limiter, rights, 0, MIDNIGHT)
    assert refused(limiter, rights, 0, MIDNIGHT).limit == "concurrent"
    limiter.end(first, 0, MIDNIGHT)
    limiter.end(first, 0, MIDNIGHT)
    admitted(limiter, rights, 0, MIDNIGHT)
    assert refused(limiter, rights, 0, MIDNIGHT).limit == "concurrent", "a request ends once"


def test_requests_in_a_minute_say_when_the_next_one_may_come() -> None:
    limiter, rights = Limiter(), Rights(per_minute=2)
    admitted(limiter, rights, 0, MIDNIGHT)
    admitted(limiter, rights, 0, MIDNIGHT + 20)
    reached = refused(limiter, rights, 0, MIDNIGHT + 30)
    assert (reached.limit, reached.retry_after) == ("per_minute", 30)
    admitted(limiter, rights, 0, MIDNIGHT + 30 + reached.retry_after)


def test_tokens_are_reserved_and_corrected() -> None:
    limiter, rights = Limiter(), Rights(tokens_per_day=100)
    first = admitted(limiter, rights, 80, MIDNIGHT)
    reached = refused(limiter, rights, 40, MIDNIGHT + 3600)
    assert (reached.limit, reached.retry_after) == ("tokens_per_day", DAY - 3600)
    limiter.end(first, 30, MIDNIGHT)
    admitted(limiter, rights, 40, MIDNIGHT)
    assert refused(limiter, rights, 31, MIDNIGHT).limit == "tokens_per_day"
    admitted(limiter, rights, 100, MIDNIGHT + DAY)


def test_a_request_over_midnight_counts_on_the_day_of_its_start() -> None:
    limiter, rights = Limiter(), Rights(tokens_per_day=100)
    late = admitted(limiter, rights, 90, MIDNIGHT - 1)
    admitted(limiter, rights, 100, MIDNIGHT)
    limiter.end(late, 90, MIDNIGHT + 1)
    assert (limiter.used, limiter.reserved) == (0, 100)


@given(
    concurrent=st.integers(1, 4),
    per_minute=st.integers(1, 6),
    tokens_per_day=st.integers(1, 500),
    steps=st.lists(
        st.tuples(st.sampled_from(["admit", "end"]), st.integers(0, 200), st.floats(0, 40_000)), max_size=60
    ),
)
def test_no_limit_is_ever_exceeded(
    concurrent: int, per_minute: int, tokens_per_day: int, steps: list[tuple[str, int, float]]
) -> None:
    rights = Rights(concurrent=concurrent, per_minute=per_minute, tokens_per_day=tokens_per_day)
    limiter, now = Limiter(), float(MIDNIGHT)
    running: list[Admission] = []
    starts: list[float] = []
    spent: dict[int, int] = {}
    for action, number, pause in steps:
        now += pause
        if action == "admit":
            found = limiter.admit(rights, number, now)
            if isinstance(found, LimitReached):
                assert found.retry_after >= 0
                continue
            running.append(found)
            starts.append(now)
        elif running:
            ended = running.pop(number % len(running))
            tokens = min(number, ended.tokens)
            limiter.end(ended, tokens, now)
            spent[ended.day] = spent.get(ended.day, 0) + tokens
        assert len(running) <= concurrent
        assert sum(1 for start in starts if now - MINUTE < start <= now) <= per_minute
        today = int(now // DAY)
        reserved = sum(one.tokens for one in running if one.day == today)
        assert spent.get(today, 0) + reserved <= tokens_per_day


def test_what_counts_against_the_limits_now() -> None:
    limiter = Limiter(day=0, used=5)
    rights = Rights(concurrent=9, per_minute=9, tokens_per_day=1000)
    first = limiter.admit(rights, 100, 10.0)
    assert isinstance(first, Admission)
    limiter.admit(rights, 100, 20.0)
    assert limiter.use(30.0) == Use(running=2, minute=2, tokens=205)
    limiter.end(first, 30, 40.0)
    assert limiter.use(75.0) == Use(running=1, minute=1, tokens=135)
    assert limiter.use(DAY + 1.0) == Use(running=1, minute=0, tokens=0)
