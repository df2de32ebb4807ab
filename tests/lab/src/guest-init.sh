#!/bin/busybox sh
# Process 1 of the guest. What it finds out it says through the kernel's log, a line at a time, so that nothing
# the kernel prints at that moment tears the line. `lab.work=` on the command line says what to do:
# hello (nothing), demo, read, obey (orders come over the console), serve (orders about any device), wait (the same
# before a driver is there), measure (the same after the disk is read), shell.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys

# Level 3: shown even by a guest that is told to be quiet.
say() { echo "<3>lab: $*" >/dev/kmsg; }
uptime_now() { cut -d' ' -f1 /proc/uptime; }
disk=/dev/nvme0n1
digest() { sha256sum "$disk" | cut -d' ' -f1; }
interrupts() { grep nvme /proc/interrupts | while read -r line; do say "$1 $line"; done; }
leave() { say "end uptime=$(uptime_now)"; poweroff -f; }

say "up uptime=$(uptime_now)"
work=demo
for word in $(cat /proc/cmdline); do
	case "$word" in lab.work=*) work=${word#lab.work=} ;; esac
done
[ "$work" != hello ] || leave
load_modules() {
	while read -r module; do
		insmod "/modules/$module" || say "fault insmod $module"
	done </modules/order
}
serve() {
	. /devices.sh
	say "ready"
	# A number, a function of that file, and what it gets.
	while read -r number order; do
		$order
		say "done number=$number status=$?"
	done
	leave
}
[ "$work" != wait ] || serve
load_modules
[ "$work" != serve ] || serve
patience=1000
while [ ! -b "$disk" ]; do
	patience=$((patience - 1))
	[ "$patience" -gt 0 ] || { say "fault no-disk $disk"; leave; }
	usleep 10000
done
dd if="$disk" of=/dev/null bs=4096 count=1 2>/dev/null || say "fault first-read"
say "first-read uptime=$(uptime_now) bytes=$(blockdev --getsize64 "$disk")"

case "$work" in
demo)
	interrupts before
	say "reading"
	say "read sha256=$(digest)"
	yes "$WRITE_LINE" | dd of="$disk" bs=1048576 seek=$((WRITE_AT / 1048576)) \
		count=$((WRITE_BYTES / 1048576)) iflag=fullblock conv=notrunc,fsync 2>/dev/null || say "fault write"
	echo 3 >/proc/sys/vm/drop_caches
	say "written sha256=$(digest)"
	interrupts after
	leave
	;;
read)
	say "reading"
	say "read sha256=$(digest)"
	leave
	;;
measure)
	say "reading"
	say "read sha256=$(digest)"
	serve
	;;
obey)
	say "ready"
	while read -r order; do
		case "$order" in
		read) say "read sha256=$(digest)" ;;
		reboot)
			say "rebooting"
			reboot -f
			;;
		endless)
			while true; do
				echo 3 >/proc/sys/vm/drop_caches
				dd if="$disk" of=/dev/null bs=1048576 2>/dev/null || say "fault read"
				say "round"
			done
			;;
		leave) leave ;;
		*) say "fault unknown-order $order" ;;
		esac
	done
	leave
	;;
shell)
	say "shell"
	# Only what matters to a person from here on.
	dmesg -n 4
	echo
	echo "  This is the guest. Its disk is $disk. Try:"
	echo "    sha256sum $disk      grep nvme /proc/interrupts      dmesg | grep nvme"
	echo "  Leave with 'exit' (the guest switches itself off) or with Ctrl-A x (the monitor ends at once)."
	setsid cttyhack sh
	leave
	;;
*)
	say "fault unknown-work $work"
	leave
	;;
esac
