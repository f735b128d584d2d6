# The root is in place: run the command, report its exit status, end.
# Settings: shares, cpus, tick_s (0: none), cxl (arrive, late or nothing),
# cgroup (yes or nothing), system (nothing: the host's own root, nobody else runs).

home=/run/vmtest
b=$home/busybox
exec </dev/null >/dev/console 2>&1
. $home/settings

# /dev/vport... of a virtio port, by the name that the host gave it.
port() {
    for port in /sys/class/virtio-ports/*; do
        $b grep -qx "$1" "$port/name" && echo "/dev/${port##*/}"
    done
}

if [ -z "$system" ]; then
    $b mount -t cgroup2 none /sys/fs/cgroup
    $b mount -t debugfs none /sys/kernel/debug
    $b mount -t tracefs none /sys/kernel/tracing
    $b mount -t bpf none /sys/fs/bpf
    $b ip link set lo up
    $b hostname vmtest
    for controller in memory cpuset cpu io pids; do
        echo +$controller >/sys/fs/cgroup/cgroup.subtree_control
    done
fi

exec 3>"$(port control)"
if [ "$cxl" = arrive ] && ! $b sh $home/bin/vmtest-cxl arrive; then
    echo "failed the CXL memory did not come on line" >&3
    $b poweroff -f
fi

[ "$tick_s" = 0 ] || $b sh $home/bin/vmtest-tick "$tick_s"

# A port opens once only; behind a pipe the command may open /dev/stderr again.
$b mkfifo $home/stdout $home/stderr
$b cat $home/stdout >"$(port stdout)" & out=$!
$b cat $home/stderr >"$(port stderr)" & err=$!

echo "started $($b cut -d' ' -f1 /proc/uptime)" >&3
(
    exec 3>&-
    if [ "$cgroup" ]; then
        $b mkdir /sys/fs/cgroup/command
        echo 0 >/sys/fs/cgroup/command/cgroup.procs
    fi
    exec /bin/sh $home/command
) >$home/stdout 2>$home/stderr
status=$?

# Whatever the command left behind may hold its output open.
($b sleep 3; $b kill $out $err) 3>&- &
wait $out $err
# A shell that is no first process would kill itself, too.
[ "$system" ] || $b kill -9 -1
cd /
for share in $shares; do
    $b umount "$share" || $b umount -l "$share"
done
$b sync
# Unmounting made QEMU answer requests that came after the last output, so all
# of it has arrived. On this line the machine is switched off from outside.
echo "exit $status" >&3
$b sleep 10
$b poweroff -f
