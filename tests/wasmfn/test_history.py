from schemas.events import new_event
from wasmfn.history import About


def test_the_story_of_a_function_has_its_builds_and_nobody_elses_events() -> None:
    about = About("default", "sort")
    published = new_event("scheduler", "default", "function", "sort", "spec-published", "x")
    built = new_event("builder", "-", "build", "ab12", "ready", "x", correlation=published.id)
    endpoint = new_event("scheduler", "default", "endpoint", "e1", "added", "x", function="sort")
    other = new_event("scheduler", "other", "function", "sort", "scaled", "up")
    events = [built, published, built, endpoint, other]
    assert [about.takes(event) for event in events] == [False, True, True, True, False]
