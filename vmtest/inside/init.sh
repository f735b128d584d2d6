#!/bin/busybox sh
# The guest's first process: load drivers, put the root together, go there.
# Settings: modules, shares (paths), system (nothing: the host's own root).

b=/bin/busybox
fail() {
    $b echo "vmtest: $*"
    $b poweroff -f
}

$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
exec </dev/console >/dev/console 2>&1
. /vmtest/settings

for module in $modules; do
    $b insmod "/modules/$module.ko"
done

plan9=trans=virtio,version=9p2000.L,msize=512000
if [ "$system" ]; then
    $b mount -t squashfs -o ro /dev/vda /lower || fail "cannot mount the $system system"
else
    $b mount -t 9p -o "ro,$plan9,cache=loose" root /lower ||
        fail "cannot mount the root"
fi
$b mount -t tmpfs -o size=75% tmpfs /upper
$b mkdir /upper/data /upper/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work \
    overlay /new || fail "cannot mount the overlay"

for folder in dev proc sys; do
    $b mount --move "/$folder" "/new/$folder"
done
for folder in /run /dev/shm; do
    $b mkdir -p "/new$folder"
    $b mount -t tmpfs -o mode=1777 tmpfs "/new$folder"
done
[ "$system" ] && $b chmod 755 /new/run
$b mkdir -p /new/dev/pts
$b mount -t devpts devpts /new/dev/pts
# The kernel makes no such links, and a shell would make a file of that name.
$b ln -s /proc/self/fd /new/dev/fd
$b ln -s /proc/self/fd/0 /new/dev/stdin
$b ln -s /proc/self/fd/1 /new/dev/stdout
$b ln -s /proc/self/fd/2 /new/dev/stderr
$b mkdir /new/run/vmtest /new/run/vmtest/bin

number=0
for share in $shares; do
    $b mkdir -p "/new$share"
    $b mount -t 9p -o "rw,$plan9,cache=mmap" "share$number" "/new$share" ||
        fail "cannot mount $share"
    number=$((number + 1))
done

$b cp /bin/busybox /new/run/vmtest/
$b cp /vmtest/settings /vmtest/command /vmtest/session.sh /new/run/vmtest/
$b cp /vmtest/vmtest-cxl /vmtest/vmtest-tick /new/run/vmtest/bin/
if [ "$system" ]; then
    # The session is a service like others, begun when the system is up.
    $b mkdir -p /new/run/systemd/system/multi-user.target.wants
    $b cp /vmtest/vmtest.service /new/run/systemd/system/
    $b ln -s ../vmtest.service /new/run/systemd/system/multi-user.target.wants/
    exec $b switch_root /new /sbin/init
fi
exec $b switch_root /new /run/vmtest/busybox sh /run/vmtest/session.sh
