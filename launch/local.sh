#!/usr/bin/env bash
# Several processes on this machine, each with virtual CPU devices: what a pod does, without one.
#
#   launch/local.sh --processes=2 --devices=2 -- --config=configs/biovid.py
#
# What stands behind -- goes to `python -m jmt_jax.main` of every process.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/local.sh [--processes=N] [--devices=M] [--port=P] [--python=PYTHON] [--timeout_seconds=S] [--dry_run]
                       -- ARGUMENTS OF jmt_jax.main

  --processes=N         processes (default 2)
  --devices=M           virtual CPU devices of each (default 1)
  --port=P              of process 0 (default: a free one)
  --python=PYTHON       interpreter (default: $PYTHON or python)
  --timeout_seconds=S   a process that is silent for so long ends all (default 100)
  --dry_run             print the commands and do nothing

Exit code: that of the first process that fails, else 0.
TEXT
}

fail() {
  echo "local.sh: $1" >&2
  exit 2
}

processes=2 devices=1 port='' python=${PYTHON:-python} timeout_seconds=100 dry_run=false
while [ $# -gt 0 ]; do
  case $1 in
    --processes=*) processes=${1#*=} ;;
    --devices=*) devices=${1#*=} ;;
    --port=*) port=${1#*=} ;;
    --python=*) python=${1#*=} ;;
    --timeout_seconds=*) timeout_seconds=${1#*=} ;;
    --dry_run) dry_run=true ;;
    --help | -h) usage && exit 0 ;;
    --) shift && break ;;
    *) fail "$1 is no option; arguments of the program stand behind --, see --help" ;;
  esac
  shift
done
[ $# -gt 0 ] || fail "nothing stands behind --; give the program its --config, e.g. -- --config=configs/biovid.py"
for number in "$processes" "$devices" "$timeout_seconds" "${port:-1}"; do
  [[ $number =~ ^[1-9][0-9]*$ ]] || fail "$number is no whole number above 0"
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "$port" ]; then
  if $dry_run; then
    port=PORT
  else
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  fi
fi

# Of the surroundings' XLA flags all are kept but the number of devices.
flags=$(sed -E 's/--xla_force_host_platform_device_count=[0-9]+ *//' <<<"${XLA_FLAGS:-}")
flags="${flags:+$flags }--xla_force_host_platform_device_count=$devices"

command_of() { # number of the process, then the program's arguments
  local number=$1
  shift
  command=(env JAX_PLATFORMS=cpu XLA_FLAGS="$flags" "$python" -u -m jmt_jax.main
    --coordinator="127.0.0.1:$port" --process_id="$number" --process_count="$processes"
    --distributed_timeout_seconds="$timeout_seconds" "$@")
}

if $dry_run; then
  for ((number = 0; number < processes; number++)); do
    command_of "$number" "$@"
    printf '%q ' "${command[@]}" | sed 's/ $//'
    echo
  done
  exit 0
fi

pids=()
# shellcheck disable=SC2317  # reached by the traps
signal_all() {
  for pid in "${pids[@]}"; do
    kill "-$1" "$pid" 2>/dev/null || true
  done
}
trap 'signal_all TERM' TERM INT
trap 'signal_all USR1' USR1
# Nothing of it stays behind, whatever ends this script.
trap 'signal_all CONT; signal_all KILL' EXIT

for ((number = 0; number < processes; number++)); do
  command_of "$number" "$@"
  # sed reads and writes line by line; the process itself is the job, so that its exit code and number are known.
  "${command[@]}" > >(sed -u "s/^/[$number] /") 2> >(sed -u "s/^/[$number] /" >&2) &
  pids[number]=$!
done

code=0 deadline=0
while [ ${#pids[@]} -gt 0 ]; do
  for number in "${!pids[@]}"; do
    kill -0 "${pids[number]}" 2>/dev/null && continue
    one=0
    wait "${pids[number]}" || one=$?
    unset "pids[number]"
    [ "$one" -ne 0 ] || continue
    what="with exit code $one"
    [ "$one" -le 128 ] || what="by signal $((one - 128))"
    echo "local.sh: process $number of $processes ended $what" >&2
    if [ "$code" -eq 0 ]; then
      code=$one
      # The others notice by themselves, within the time limit; those that do not are ended.
      deadline=$((SECONDS + timeout_seconds + 10))
    fi
  done
  if [ "$deadline" -gt 0 ] && [ "$SECONDS" -gt "$deadline" ]; then
    for number in "${!pids[@]}"; do
      echo "local.sh: process $number of $processes did not end by itself; it is killed" >&2
    done
    signal_all CONT
    signal_all KILL
  fi
  sleep 0.2
done
wait
exit "$code"
