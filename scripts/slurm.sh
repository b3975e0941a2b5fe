#!/usr/bin/env bash
# A real SLURM on this machine alone, in seconds, for the tests of the benchmark's cluster executor.
#
#   scripts/slurm.sh start    needs Debian's packages slurm-wlm and munge, and root; for throw-away machines such as CI
#   scripts/slurm.sh stop     ends the daemons that start has started
#
# No systemd, no accounting, no control groups; half a minute of patience with jobs that are asked to end.
set -euo pipefail

state=/var/tmp/nnunet_ext_slurm

start() {
    if [ "$(id -u)" != 0 ]; then
        echo "scripts/slurm.sh start must run as root, on a machine that may be changed." >&2
        exit 1
    fi
    for command in munged slurmctld slurmd; do
        if ! PATH=$PATH:/usr/sbin command -v $command >/dev/null; then
            echo "$command was not found: apt-get install -y slurm-wlm munge" >&2
            exit 1
        fi
    done
    if [ -e /etc/slurm/slurm.conf ] && ! grep -q "^# nnunet_ext" /etc/slurm/slurm.conf; then
        echo "/etc/slurm/slurm.conf is that of another SLURM: not touched." >&2
        exit 1
    fi
    local host memory
    host=$(hostname -s)
    memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    mkdir -p $state/ctld $state/d /etc/slurm /run/munge /var/log/munge /var/lib/munge
    chown munge:munge /run/munge /var/log/munge /var/lib/munge
    [ -s /etc/munge/munge.key ] || { head -c 1024 /dev/urandom >/etc/munge/munge.key; }
    chown munge:munge /etc/munge/munge.key && chmod 400 /etc/munge/munge.key
    cat >/etc/slurm/slurm.conf <<CONF
# nnunet_ext: made by scripts/slurm.sh
ClusterName=nnunet_ext
SlurmctldHost=$host
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/d
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
MinJobAge=300
KillWait=10
SchedulerParameters=sched_interval=1,bf_interval=1,defer
# More than there are: the jobs of the tests do next to nothing.
SlurmdParameters=config_overrides
NodeName=$host CPUs=8 RealMemory=$memory State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
    pgrep -x munged >/dev/null || runuser -u munge -- munged
    slurmctld
    slurmd
    for _ in $(seq 50); do
        [ "$(sinfo -h -o %T 2>/dev/null)" = idle ] && { sinfo; return; }
        sleep 0.2
    done
    echo "SLURM did not come up: see $state/slurmctld.log and slurmd.log" >&2
    exit 1
}

stop() {
    for daemon in slurmd slurmctld; do
        [ -s $state/$daemon.pid ] && kill "$(cat $state/$daemon.pid)" 2>/dev/null || true
    done
    rm -f $state/*.pid
}

case "${1:-}" in
start) PATH=$PATH:/usr/sbin start ;;
stop) stop ;;
*)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
