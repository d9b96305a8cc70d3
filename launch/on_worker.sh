#!/usr/bin/env bash
# The program on one worker of a pod, apart from the connection that started it; launch/tpu_pod.sh calls this.
#
#   launch/on_worker.sh start ID ARGUMENTS OF jmt_jax.main   begins, and returns at once
#   launch/on_worker.sh follow                             shows run.log to its end; exits as the program does
#   launch/on_worker.sh stop [TERM|KILL]                   sends it a signal
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}

is_running() {
  [ -f run.child ] && kill -0 "$(cat run.child)" 2>/dev/null
}

supervise() {
  local code=0
  "$python" -u -m jmt_jax.main "$@" &
  echo $! >run.child
  wait $! || code=$?
  echo "$code" >run.exit
}

case ${1:-} in
  start)
    id=$2
    shift 2
    if is_running && [ "$(cat run.id)" = "$id" ]; then
      exit 0 # The same start again, as another worker did not hear the first.
    fi
    if is_running; then
      echo "on_worker.sh: a run is going on here (pid $(cat run.child)); see tpu_pod.sh logs, or stop" >&2
      exit 2
    fi
    rm -f run.exit run.child
    echo "$id" >run.id
    # A session of its own: a lost connection does not end it.
    setsid bash launch/on_worker.sh supervise "$@" >run.log 2>&1 </dev/null &
    while [ ! -f run.child ]; do
      sleep 0.1
    done
    ;;
  supervise)
    shift
    supervise "$@"
    ;;
  follow)
    [ -f run.child ] || { echo "on_worker.sh: nothing was started here" >&2 && exit 2; }
    tail -n +1 -F --pid="$(cat run.child)" run.log 2>/dev/null || true
    for _ in 1 2 3 4 5 6 7 8 9 10; do
      [ ! -f run.exit ] || exit "$(cat run.exit)"
      sleep 0.5
    done
    echo "on_worker.sh: the run has ended without an exit code: the worker was probably restarted" >&2
    exit 75
    ;;
  stop)
    if is_running; then
      kill "-${2:-TERM}" "$(cat run.child)"
    fi
    ;;
  *)
    echo "on_worker.sh: start, follow or stop was expected" >&2
    exit 2
    ;;
esac
