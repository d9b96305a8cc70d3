"""Folds times seeds: each a run of its own, then one result over all of them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from data_pipelines.errors import UsageError
from data_pipelines.loader import Shard
from data_pipelines.splits import fold_words
from jmt_jax import (
    evaluate,
    evaluations,
    files,
    logging,
    other_data,
    part_checks,
    run_config,
    run_folder,
    run_record,
    stop,
    watch,
)
from jmt_jax.distributed import wait_for_all
from jmt_jax.experiment import Config, Data, Experiment, make_experiment, open_data
from jmt_jax.fold_splits import make_split, num_folds
from jmt_jax.run_record import flat
from jmt_jax.runtime import Runtime
from jmt_jax.train import extract_features, train_and_evaluate
from jmt_jax.trained_backbones import fold_folder


class _Run(NamedTuple):
    fold: int
    seed: int
    folder: Path


def run(config: Config, workdir: Path) -> dict[str, Any]:
    """Trains and evaluates every fold of ``protocol.folds`` (all if empty) with every seed of ``seeds``.

    One run alone lives in ``workdir`` itself; several live in ``fold_<f>_seed_<s>`` below it, and
    ``workdir/results.json`` is over all of them. A run that is finished is not repeated.

    Returns:
      What ``workdir/results.json`` holds (``results_<part>.json`` where ``eval.split`` is another part).
    """
    data, part = open_data(config), config.eval.split
    _write_config(config, workdir)
    runs = _runs(config, data, workdir)
    outcomes, written = [], {}
    for number, one in enumerate(runs, start=1):
        stop.check("the runs before this one are finished")
        experiment = make_experiment(config, data, fold=one.fold, seed=one.seed)
        evaluate.check(experiment)
        if evaluate.results_path(one.folder, part).exists():
            logging.info(f"{_words(one, experiment)} is finished: {run_folder.named(one.folder)}")
            written = evaluate.results.read(evaluate.results_path(one.folder, part))
        else:
            if len(runs) > 1:
                logging.info(f"run {number} of {len(runs)}: {_words(one, experiment)}")
            written = train_and_evaluate(config, one.folder, data=data, fold=one.fold, seed=one.seed).results
        run_folder.share(one.folder)
        if jax.process_index() == 0:
            watch.mark_done(one.folder)
        outcomes.append(evaluate.load_outcome(experiment, one.folder, part))
    if len(runs) > 1:
        written = evaluate.summarise(
            config, data, outcomes, workdir, part=part, is_main=jax.process_index() == 0
        )
        if jax.process_index() == 0:
            watch.mark_done(workdir)
    return written


def run_watch(config: Config, workdir: Path) -> list[dict[str, Any]]:
    """Follows the checkpoints of the runs in ``workdir``, of a trainer that runs now or later, to its end.

    Returns:
      What ``watch/results.json`` (``results_<part>.json``) of each run holds.
    """
    watch.wait_for(workdir / "config.json")
    run_record.check_options(config, workdir)
    data, runtime = open_data(config), Runtime.create(config.parallelism)
    watchers = []
    for one in _runs(config, data, workdir):
        experiment = make_experiment(config, data, fold=one.fold, seed=one.seed)
        evaluate.check(experiment)
        if (one.folder / run_record.FILE).exists():  # a fold that has not begun has none yet
            run_record.check(experiment, one.folder)
        watchers.append(watch.Watcher(experiment, runtime, one.folder))
    return watch.follow(watchers)


def run_evaluation(config: Config, workdir: Path) -> dict[str, Any]:
    """Evaluates checkpoints of the runs in ``workdir`` again (`evaluations`).

    It is on the part ``eval.split``, or on the other recordings in ``eval.data_dir`` (`other_data`).
    """
    started = time.monotonic()
    run_record.check_options(config, workdir)
    if config.eval.get("data_dir", ""):
        trained = other_data.open_trained(config, workdir)
        called = f"on_{other_data.name(trained[0].experiment.data)}"
        return evaluations.run(trained, workdir, started=started, called=called)
    data = open_data(config)
    trained = []
    for one in _runs(config, data, workdir):
        experiment = make_experiment(config, data, fold=one.fold, seed=one.seed)
        run_record.check(experiment, one.folder)
        trained.append(evaluations.Trained(experiment, one.folder))
    return evaluations.run(trained, workdir, started=started)


def run_extraction(config: Config, workdir: Path, shard: tuple[int, int] | None) -> None:
    """Extracts the features of every fold and seed.

    Args:
      config: The configuration.
      workdir: The run's folder.
      shard: Number, from 0, and count of the jobs that share the recordings; None for all of them.
    """
    data = open_data(config)
    if shard is None:
        _write_config(config, workdir)
    part = None if shard is None else Shard(*shard)
    runs = _runs(config, data, workdir)
    finished = [
        extract_features(config, one.folder, data=data, fold=one.fold, seed=one.seed, shard=part)
        for one in runs
    ]
    if all(finished):
        logging.info("all features are extracted")
    else:
        logging.info("this shard is done; the one that finishes last puts the features together")


def _words(one: _Run, experiment: Experiment) -> str:
    return f"{fold_words(one.fold, experiment.split.folds)}, seed {one.seed}"


def _runs(config: Config, data: Data, workdir: Path) -> list[_Run]:
    total = num_folds(config, data)
    folds = tuple(config.protocol.folds) or tuple(range(total))
    for fold in folds:
        if not 0 <= fold < total:
            raise UsageError(
                f"protocol.folds names fold {fold}; protocol {config.protocol.name} has 0 to {total - 1}"
            )
    seeds = tuple(config.seeds)
    if not seeds or len(set(seeds)) < len(seeds) or len(set(folds)) < len(folds):
        raise UsageError(f"seeds are {seeds}, folds are {folds}; name at least one, each once")
    tested = (make_split(config, data, fold) for fold in folds)
    part_checks.check_tested(data.task, data.items, tested, config.eval.split)
    if len(folds) * len(seeds) == 1:
        return [_Run(folds[0], seeds[0], workdir)]
    return [_Run(fold, seed, fold_folder(workdir, fold, seed)) for seed in seeds for fold in folds]


def _write_config(config: Config, workdir: Path) -> None:
    """Writes ``config.json``; refuses to go on with a run that has another configuration."""
    path = workdir / "config.json"
    text = run_config.text(config)
    if path.exists() and path.read_bytes() != text.encode():
        old, new = flat(files.read_object(path, run_config.ADVICE)), flat(json.loads(text))
        changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        raise UsageError(
            f"{run_folder.named(workdir)} holds a run with another configuration (different: "
            f"{', '.join(changed[:5])}); give the same options to go on with it, or another --workdir"
        )
    wait_for_all("config.json was compared")
    if jax.process_index() == 0:
        files.write_text(path, text)
