#!/usr/bin/env bash
# A Cloud TPU pod from creation to deletion: every command runs on all of its workers.
#
#   launch/tpu_pod.sh create --name=jmt --zone=us-west4-a --accelerator_type=v5litepod-16
#   launch/tpu_pod.sh sync   --name=jmt --zone=us-west4-a
#   launch/tpu_pod.sh run    --name=jmt --zone=us-west4-a --shared=/mnt/shared -- --config=configs/biovid.py:paper \
#                            --config.data.dir=/mnt/shared/prepared --workdir=/mnt/shared/run
#   launch/tpu_pod.sh delete --name=jmt --zone=us-west4-a
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/tpu_pod.sh COMMAND --name=NAME --zone=ZONE [OPTIONS] [-- ARGUMENTS OF jmt_jax.main]

commands
  create      make the pod
  sync        copy the commit that is checked out here to all workers and install it there
  preflight   check all workers against each other (launch/preflight.py)
  run         preflight, then the program on all workers; waits and shows what they say
  logs        follow a run that is going on
  stop        send the program TERM: it saves and leaves with exit code 75
  delete      delete the pod

options
  --name=NAME, --zone=ZONE      of the pod; needed by every command
  --project=PROJECT             gcloud's own default if not given
  --accelerator_type=TYPE       create: e.g. v5litepod-16 (default)
  --runtime_version=VERSION     create: default v2-alpha-tpuv5-lite
  --spot                        create: cheaper, can be taken away at any time
  --shared=DIR                  preflight, run: a folder that all workers see; checked before the start
  --retries=N                   more attempts of a gcloud command that fails, and restarts of a run (default 3)
  --retry_seconds=S             pause before each (default 20)
  --dry_run                     print the gcloud commands and do nothing

A run is started again where that is of use (exit codes 75, 134, 137, 143 and 255: stopped, a process lost, killed,
connection lost): with the same --workdir it goes on. Exit code: gcloud's, which is that of the first worker that failed.
TEXT
}

fail() {
  echo "tpu_pod.sh: $1" >&2
  exit 2
}

# Words for a shell, in quotes where they need any.
quoted() {
  local word
  local words=()
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    words+=("$word")
  done
  echo "${words[*]}"
}

[ $# -gt 0 ] || { usage >&2 && exit 2; }
action=$1
shift
case $action in
  create | sync | preflight | run | logs | stop | delete) ;;
  --help | -h) usage && exit 0 ;;
  *) fail "$action is no command; it is create, sync, preflight, run, logs, stop or delete" ;;
esac
name='' zone='' project='' accelerator_type=v5litepod-16 runtime_version=v2-alpha-tpuv5-lite spot=false
shared='' retries=3 retry_seconds=20 dry_run=false
while [ $# -gt 0 ]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --accelerator_type=*) accelerator_type=${1#*=} ;;
    --runtime_version=*) runtime_version=${1#*=} ;;
    --spot) spot=true ;;
    --shared=*) shared=${1#*=} ;;
    --retries=*) retries=${1#*=} ;;
    --retry_seconds=*) retry_seconds=${1#*=} ;;
    --dry_run) dry_run=true ;;
    --help | -h) usage && exit 0 ;;
    --) shift && break ;;
    *) fail "$1 is no option; arguments of the program stand behind --, see --help" ;;
  esac
  shift
done
[[ -n $name && -n $zone ]] || fail "--name and --zone are needed, e.g. --name=jmt --zone=us-west4-a"
for number in "$retries" "$retry_seconds"; do
  [[ $number =~ ^[0-9]+$ ]] || fail "$number is no whole number"
done
[ "$action" = run ] || [ $# -eq 0 ] || fail "only run takes arguments of the program"
if [ "$action" = run ]; then
  [[ " $* " == *" --config"* ]] || fail "give the program its --config behind --, e.g. -- --config=configs/biovid.py"
  [[ " $* " == *" --workdir"* ]] || fail "give the program a --workdir that all workers see: a restart goes on there"
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

where=("--zone=$zone")
[ -z "$project" ] || where+=("--project=$project")

# Prints or runs a command; what fails is tried again.
attempt() {
  if $dry_run; then
    quoted "$@"
    return 0
  fi
  local number=0 code
  while true; do
    code=0
    "$@" || code=$?
    [ "$code" -ne 0 ] || return 0
    number=$((number + 1))
    if [ "$number" -gt "$retries" ]; then
      echo "tpu_pod.sh: $action failed $number times, the last time with exit code $code" >&2
      return "$code"
    fi
    echo "tpu_pod.sh: $action: exit code $code; attempt $((number + 1)) in $retry_seconds s" >&2
    sleep "$retry_seconds"
  done
}

tpu() {
  gcloud_command=(gcloud compute tpus tpu-vm "$1" "${@:2}" "${where[@]}")
}

on_all_workers() {
  tpu ssh "$name" --worker=all "--command=$1"
}

preflight() {
  local command='cd jmt-jax && .venv/bin/python launch/preflight.py'
  [ -z "$shared" ] || command+=" --shared=$(quoted "$shared")"
  on_all_workers "$command"
  attempt "${gcloud_command[@]}"
}

follow() {
  on_all_workers "bash jmt-jax/launch/on_worker.sh follow"
}

run() {
  preflight
  local number=0 code id
  while true; do
    id=START_$number
    $dry_run || id=$(date +%s)_$number
    on_all_workers "bash jmt-jax/launch/on_worker.sh start $id $(quoted "$@")"
    attempt "${gcloud_command[@]}"
    code=0
    follow
    if $dry_run; then
      attempt "${gcloud_command[@]}"
      return 0
    fi
    "${gcloud_command[@]}" || code=$?
    case $code in
      0 | 2 | 3) return "$code" ;;
      75 | 134 | 137 | 143 | 255) ;;
      *) return "$code" ;;
    esac
    number=$((number + 1))
    [ "$number" -le "$retries" ] || return "$code"
    echo "tpu_pod.sh: the run ended with exit code $code; it goes on in $retry_seconds s" >&2
    sleep "$retry_seconds"
    # Whatever is left of it on some worker would hold the chips.
    stop_program KILL
  done
}

stop_program() {
  on_all_workers "bash jmt-jax/launch/on_worker.sh stop $1"
  attempt "${gcloud_command[@]}"
}

sync_code() {
  local archive=jmt-jax.tar.gz
  if ! $dry_run; then
    archive=$(mktemp -d)/jmt-jax.tar.gz
    trap 'rm -rf "$(dirname "$archive")"' EXIT
  fi
  attempt git archive --format=tar.gz "--output=$archive" HEAD
  tpu scp "$archive" "$name:jmt-jax.tar.gz" --worker=all
  attempt "${gcloud_command[@]}"
  on_all_workers "mkdir -p jmt-jax && tar -xzf jmt-jax.tar.gz -C jmt-jax && cd jmt-jax && \
{ [ -x .venv/bin/python ] || python3.11 -m venv .venv; } && \
.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[tpu,gcs]'"
  attempt "${gcloud_command[@]}"
}

case $action in
  create)
    tpu create "$name" "--accelerator-type=$accelerator_type" "--version=$runtime_version"
    ! $spot || gcloud_command+=(--spot)
    attempt "${gcloud_command[@]}"
    ;;
  sync) sync_code ;;
  preflight) preflight ;;
  run) run "$@" ;;
  logs)
    follow
    attempt "${gcloud_command[@]}"
    ;;
  stop) stop_program TERM ;;
  delete)
    tpu delete "$name" --quiet
    attempt "${gcloud_command[@]}"
    ;;
esac
