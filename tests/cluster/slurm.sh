#!/usr/bin/env bash
# A SLURM of one node on this machine, for tests: Debian's packages, root, loopback, no systemd, no cgroups.
#
#   slurm.sh up [--accounting]   install what is missing and start; with --accounting slurmdbd and MariaDB too
#   slurm.sh stop-controller     stop slurmctld; jobs run on
#   slurm.sh start-controller    start it again; it knows its jobs
#   slurm.sh status              the node, the queue
#   slurm.sh down                stop what `up` started, and remove its configuration
#
# It claims 32 cores, 256,000 MB and 2 GPUs (SLURM_CPUS, SLURM_MB, SLURM_GPUS), whatever the machine has: jobs are
# scheduled by these numbers. State and logs lie in SLURM_FOLDER (/tmp/flare23-slurm).
set -euo pipefail

FOLDER=${SLURM_FOLDER:-/tmp/flare23-slurm}
CPUS=${SLURM_CPUS:-32}
MEGABYTES=${SLURM_MB:-256000}
GPUS=${SLURM_GPUS:-2}
NODE=$(hostname -s)
OURS="# Written by tests/cluster/slurm.sh"

fail() {
  echo "slurm.sh: $*" >&2
  exit 1
}

wait_for() { # SECONDS COMMAND...
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || fail "waited too long for: $*; see $FOLDER/log"
    sleep 0.2
  done
}

install_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  local packages=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}")
  "${packages[@]}" >"$FOLDER/log/apt.log" 2>&1 && return 0
  apt-get update -qq >>"$FOLDER/log/apt.log" 2>&1 || true
  "${packages[@]}" >>"$FOLDER/log/apt.log" 2>&1 || fail "apt-get cannot install ${missing[*]}; see $FOLDER/log/apt.log"
}

write_configuration() { # yes|no: accounting
  local accounting="AccountingStorageType=accounting_storage/none" gpu
  if [[ $1 == yes ]]; then
    accounting="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStorageTRES=gres/gpu"
  fi
  # Memory is watched by the accounting gatherer, as there are no cgroups to hold jobs to what they asked for.
  cat >/etc/slurm/slurm.conf <<CONF
$OURS
ClusterName=flare23
SlurmctldHost=$NODE(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
SlurmctldPidFile=$FOLDER/run/slurmctld.pid
SlurmdPidFile=$FOLDER/run/slurmd.pid
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool
SlurmctldLogFile=$FOLDER/log/slurmctld.log
SlurmdLogFile=$FOLDER/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
$accounting
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=7200
KillWait=10
GresTypes=gpu
NodeName=$NODE NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=$MEGABYTES Gres=gpu:$GPUS State=UNKNOWN
PartitionName=cpu Nodes=$NODE Default=YES MaxTime=7-0 State=UP
PartitionName=gpu Nodes=$NODE MaxTime=7-0 State=UP
CONF
  # A GPU that only the scheduler believes in: any device file will do.
  for ((gpu = 0; gpu < GPUS; gpu++)); do
    echo "NodeName=$NODE Name=gpu File=/dev/tty$gpu"
  done >/etc/slurm/gres.conf
  # Read even where cgroups are not used; without it slurmd looks for systemd.
  printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' >/etc/slurm/cgroup.conf
}

start_munge() {
  munge -n >/dev/null 2>&1 && return 0
  [[ -s /etc/munge/munge.key ]] || head -c 1024 /dev/urandom >/etc/munge/munge.key
  chown -R munge:munge /etc/munge
  chmod 400 /etc/munge/munge.key
  install -d -o munge -g munge -m 755 /run/munge
  install -d -o munge -g munge -m 700 /var/log/munge /var/lib/munge
  runuser -u munge -- munged
  cp /run/munge/munged.pid "$FOLDER/run/munged.pid"
  wait_for 10 munge -n
}

start_accounting() {
  local data=$FOLDER/mysql
  install -d -o mysql -g mysql "$data" /run/mysqld
  if [[ ! -d $data/mysql ]]; then
    mariadb-install-db --user=mysql --datadir="$data" --auth-root-authentication-method=normal \
      >"$FOLDER/log/mariadb.log" 2>&1
  fi
  setsid mariadbd --user=mysql --datadir="$data" --socket="$data/socket" --pid-file="$FOLDER/mysql/mariadbd.pid" \
    --bind-address=127.0.0.1 --port=3306 >>"$FOLDER/log/mariadb.log" 2>&1 &
  wait_for 30 mariadb-admin --socket="$data/socket" ping
  mariadb --socket="$data/socket" -e "CREATE DATABASE IF NOT EXISTS slurm_acct_db;
    CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
    GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';"
  cat >/etc/slurm/slurmdbd.conf <<CONF
AuthType=auth/munge
DbdHost=$NODE
DbdAddr=127.0.0.1
SlurmUser=root
LogFile=$FOLDER/log/slurmdbd.log
PidFile=$FOLDER/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
CONF
  chmod 600 /etc/slurm/slurmdbd.conf
  slurmdbd
  wait_for 30 sacctmgr -n list cluster
  # Each fails where it is there already.
  sacctmgr -i add cluster flare23 >/dev/null 2>&1 || true
  sacctmgr -i add account lab description=lab organization=lab >/dev/null 2>&1 || true
  sacctmgr -i add user root account=lab >/dev/null 2>&1 || true
}

node_is_idle() {
  [[ $(sinfo -h -N -o %T | head -n 1) == idle ]]
}

up() {
  [[ $(id -u) == 0 ]] || fail "starting a SLURM takes root"
  if [[ -e /etc/slurm/slurm.conf ]]; then
    grep -qxF "$OURS" /etc/slurm/slurm.conf || fail "/etc/slurm/slurm.conf belongs to another SLURM"
    down
  fi
  mkdir -p "$FOLDER"/{state,spool,log,run}
  chmod a+rx "$FOLDER"
  local accounting=no packages=(slurmctld slurmd slurm-client munge)
  if [[ ${1:-} == --accounting ]]; then
    accounting=yes
    packages+=(slurmdbd mariadb-server)
  fi
  install_packages "${packages[@]}"
  write_configuration "$accounting"
  start_munge
  [[ $accounting == no ]] || start_accounting
  slurmctld -c # forgets the jobs of an earlier time
  slurmd -N "$NODE"
  wait_for 30 node_is_idle
  srun -n 1 -t 1 true || fail "a job does not run; see $FOLDER/log"
  echo "SLURM is up: $(sinfo -h -N -o '%c cores, %m MB, %G' | head -n 1); accounting: $accounting"
}

stop() { # PID_FILE
  local process
  [[ -s $1 ]] || return 0
  process=$(<"$1")
  kill "$process" 2>/dev/null || true
  for _ in $(seq 100); do
    kill -0 "$process" 2>/dev/null || break
    sleep 0.1
  done
  rm -f "$1"
}

down() {
  [[ ! -e $FOLDER/run/slurmctld.pid ]] || timeout 10 scancel -u root || true
  local daemon
  for daemon in slurmd slurmctld slurmdbd; do
    stop "$FOLDER/run/$daemon.pid"
  done
  stop "$FOLDER/mysql/mariadbd.pid"
  stop "$FOLDER/run/munged.pid"
  # With it in place and no controller, every start of Snakemake with the plugin waits for ten seconds.
  rm -f /etc/slurm/slurm.conf
  echo "SLURM is down"
}

case "${1:-}" in
  up) up "${2:-}" ;;
  stop-controller) stop "$FOLDER/run/slurmctld.pid" ;;
  start-controller) slurmctld ;;
  status)
    sinfo -N -o '%n %T %c %m %G'
    squeue -o '%i %T %M %l %m %b %k'
    ;;
  down) down ;;
  *)
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
