"""What the runs of a search have in common, and which study they belong to."""

from dataclasses import replace

from accelmlf.many_runs.preflight import Preflight
from accelmlf.search.plan import default_name, study_facts
from accelmlf.search.settings import TuneConfig
from tests.search.makers import FAST, make_plan


def test_every_run_of_a_search_ends_at_the_target_on_the_device_that_was_found() -> None:
    plan = make_plan(device="auto", stop_at_target=False)
    plan = replace(plan, base=replace(plan.base, device="cuda:1"))
    for point in (None, FAST):
        config = plan.config_of(point)
        assert (config.stop_at_target, config.device) == (True, "cuda:1")


def test_a_run_at_a_point_has_its_settings_and_else_those_that_were_given() -> None:
    plan = make_plan(epochs=7)
    own, at_point, seeded = plan.config_of(None), plan.config_of(FAST), plan.config_of(FAST, seed=3)
    assert plan.space.point_of(at_point) == FAST != plan.space.point_of(own)
    assert (own.epochs, at_point.epochs, own.save_model) == (7, 7, False)
    assert replace(seeded, seed=0) == at_point != seeded


def test_the_same_facts_have_the_same_study_whatever_may_differ_between_starts(seen: Preflight) -> None:
    space = make_plan().space
    facts = study_facts(seen, space)
    moved = replace(seen, config=replace(seen.config, data_dir="elsewhere", save_model=True, batch_size=8))
    assert study_facts(moved, space) == facts
    assert default_name(moved, facts) == default_name(seen, dict(reversed(facts.items())))
    assert default_name(seen, facts).startswith(f"{seen.config.model}-{seen.config.dataset}-")


def test_what_makes_times_incomparable_makes_another_study(seen: Preflight) -> None:
    space = make_plan().space
    others = [
        study_facts(replace(seen, config=replace(seen.config, target_accuracy=0.123)), space),
        study_facts(replace(seen, config=replace(seen.config, seed=7)), space),
        study_facts(replace(seen, data_digest="of other pictures"), space),
        study_facts(replace(seen, environment={**seen.environment, "hardware": {"cpu": "another"}}), space),
        study_facts(seen, make_plan(TuneConfig(batch_sizes=(8, 16))).space),
    ]
    names = {default_name(seen, facts) for facts in (study_facts(seen, space), *others)}
    assert len(names) == 1 + len(others)
