#!/usr/bin/env bash
# Submits jobs to SLURM: a run, folds times seeds, or shards of preparation and extraction.
#
#   launch/slurm/submit.sh train --nodes=2 --tasks_per_node=4 --gpus_per_task=1 -- --config=configs/biovid.py:paper \
#                                --config.data.dir=DIR --workdir=RUN
#   launch/slurm/submit.sh folds --folds=5 --seeds=3 --gpus_per_task=1 -- --config=configs/biovid.py:paper --workdir=RUN
#   launch/slurm/submit.sh prepare --shards=16 -- --dataset=biovid --raw=PartA --out=DIR
#   launch/slurm/submit.sh extract --shards=8 --gpus_per_task=1 -- --config=configs/affwild2.py:paper --workdir=RUN
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/slurm/submit.sh train|folds|prepare|extract [OPTIONS] -- ARGUMENTS OF THE PROGRAM

  train     one run over all tasks; goes back into the queue when it is stopped (exit code 75)
  folds     an array of --folds times --seeds runs, then one job that puts their results together
  prepare   an array of --shards parts of data_pipelines.prepare, then one job that puts them together
  extract   the same of jmt_jax.main --mode=extract

  --nodes=N             train: default 1
  --tasks_per_node=N    train: processes a node, one for each of its GPUs (default 1)
  --gpus_per_task=N     default 0
  --cpus_per_task=N     default 4
  --time=LIMIT          default 24:00:00
  --partition=NAME, --account=NAME
  --folds=N, --seeds=N  folds: seeds are 0 to N-1 (default 1)
  --shards=N            prepare, extract: parts (default 8)
  --dry_run             print the sbatch commands and do nothing

Exit code: sbatch's.
TEXT
}

fail() {
  echo "submit.sh: $1" >&2
  exit 2
}

[ $# -gt 0 ] || { usage >&2 && exit 2; }
kind=$1
shift
case $kind in
  train | folds | prepare | extract) ;;
  --help | -h) usage && exit 0 ;;
  *) fail "$kind is no kind of job; it is train, folds, prepare or extract" ;;
esac
nodes=1 tasks_per_node=1 gpus_per_task=0 cpus_per_task=4 time=24:00:00 partition='' account=''
folds='' seeds=1 shards=8 dry_run=false
while [ $# -gt 0 ]; do
  case $1 in
    --nodes=*) nodes=${1#*=} ;;
    --tasks_per_node=*) tasks_per_node=${1#*=} ;;
    --gpus_per_task=*) gpus_per_task=${1#*=} ;;
    --cpus_per_task=*) cpus_per_task=${1#*=} ;;
    --time=*) time=${1#*=} ;;
    --partition=*) partition=${1#*=} ;;
    --account=*) account=${1#*=} ;;
    --folds=*) folds=${1#*=} ;;
    --seeds=*) seeds=${1#*=} ;;
    --shards=*) shards=${1#*=} ;;
    --dry_run) dry_run=true ;;
    --help | -h) usage && exit 0 ;;
    --) shift && break ;;
    *) fail "$1 is no option; arguments of the program stand behind --, see --help" ;;
  esac
  shift
done
for number in "$nodes" "$tasks_per_node" "$cpus_per_task" "${folds:-1}" "$seeds" "$shards"; do
  [[ $number =~ ^[1-9][0-9]*$ ]] || fail "$number is no whole number above 0"
done
[[ $gpus_per_task =~ ^[0-9]+$ ]] || fail "--gpus_per_task=$gpus_per_task is no whole number"
[ $# -gt 0 ] || fail "nothing stands behind --; give the program its arguments there"

# What the program is told of its folder; arrays give each run its own below it.
workdir=''
arguments=()
for argument in "$@"; do
  case $argument in
    --workdir=*) workdir=${argument#*=} ;;
    --shard=*) fail "--shard is given by the array; say --shards=N" ;;
    *) arguments+=("$argument") ;;
  esac
done
[[ $kind == prepare || -n $workdir ]] || fail "give the program a --workdir=: a job that is started again goes on there"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

options=("--cpus-per-task=$cpus_per_task" "--time=$time")
[ "$gpus_per_task" -eq 0 ] || options+=("--gpus-per-task=$gpus_per_task")
[ -z "$partition" ] || options+=("--partition=$partition")
[ -z "$account" ] || options+=("--account=$account")

# Runs sbatch, or prints it; `job` is the number that it gave.
submit() {
  if $dry_run; then
    local word
    local words=()
    for word in sbatch --parsable "$@"; do
      [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
      words+=("$word")
    done
    echo "${words[*]}"
    job=JOB
    return 0
  fi
  job=$(sbatch --parsable "$@")
  job=${job%%;*}
  echo "submit.sh: job $job: ${*: -1}"
}

case $kind in
  train)
    submit "${options[@]}" "--nodes=$nodes" "--ntasks-per-node=$tasks_per_node" launch/slurm/train.sbatch \
      "${arguments[@]}" "--workdir=$workdir"
    ;;
  folds)
    [ -n "$folds" ] || fail "--folds=N is needed, as many as the protocol has"
    fold_list=$(seq -s, 0 $((folds - 1))),
    seed_list=$(seq -s, 0 $((seeds - 1))),
    submit "${options[@]}" --ntasks=1 "--array=0-$((folds * seeds - 1))" \
      "--export=ALL,JMT_FOLDS=$folds,JMT_WORKDIR=$workdir" launch/slurm/folds.sbatch "${arguments[@]}"
    # Every run is finished then: this one reads them and writes the results over all.
    submit "${options[@]}" --ntasks=1 "--dependency=afterok:$job" launch/slurm/train.sbatch "${arguments[@]}" \
      "--config.protocol.folds=($fold_list)" "--config.seeds=($seed_list)" "--workdir=$workdir"
    ;;
  prepare | extract)
    if [ "$kind" = prepare ]; then
      program=(data_pipelines.prepare "$@")
    else
      program=(jmt_jax.main --mode=extract "$@")
    fi
    submit "${options[@]}" --ntasks=1 "--array=0-$((shards - 1))" launch/slurm/shards.sbatch "${program[@]}"
    submit "${options[@]}" --ntasks=1 "--dependency=afterok:$job" launch/slurm/shards.sbatch "${program[@]}"
    ;;
esac
