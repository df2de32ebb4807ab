# What a guest that takes orders can do with its devices. Each function gets the slot of one on bus 0.

# Where there is a port in the slot, the device is what is behind it, as soon as something is.
path_of() {
	local device behind
	device=/sys/bus/pci/devices/0000:00:$(printf %02x "$1").0
	for behind in "$device"/0000:??:??.0; do
		[ ! -e "$behind" ] || device=$behind
	done
	echo "$device"
}

# awaited COMMAND...: what the command prints, as soon as it prints something.
awaited() {
	local patience=1500 found
	while found=$("$@"); [ -z "$found" ]; do
		patience=$((patience - 1))
		[ "$patience" -gt 0 ] || return 1
		usleep 10000
	done
	echo "$found"
}

# The disk that hangs on a function. Of an nvme disk with several paths it is the one without a number for the path.
block_of() {
	local here entry
	here=$(readlink -f "$(path_of "$1")")
	for entry in /sys/block/*; do
		case "$(readlink -f "$entry")" in
		"$here"/*)
			entry=$(echo "${entry##*/}" | sed 's/^\(nvme[0-9]*\)c[0-9]*n/\1n/')
			[ -b "/dev/$entry" ] && echo "$entry"
			return
			;;
		esac
	done
}

interface_of() { ls "$(path_of "$1")/net" 2>/dev/null || ls "$(path_of "$1")"/virtio*/net 2>/dev/null; }
sum() { sha256sum "$1" | cut -d' ' -f1; }

# Reads everything, writes a part, reads everything again.
disk() {
	local node
	node=/dev/$(awaited block_of "$1") || { say "fault no-disk slot=$1"; return 1; }
	say "found slot=$1 name=${node##*/} bytes=$(blockdev --getsize64 "$node")"
	say "read slot=$1 sha256=$(sum "$node")"
	yes "$WRITE_LINE" | dd of="$node" bs=1048576 seek=$((WRITE_AT / 1048576)) \
		count=$((WRITE_BYTES / 1048576)) iflag=fullblock conv=notrunc,fsync 2>/dev/null || say "fault write slot=$1"
	echo 3 >/proc/sys/vm/drop_caches
	say "written slot=$1 sha256=$(sum "$node")"
}

# network SLOT ADDRESS GATEWAY PORT BYTES: sends random bytes to the gateway, which must come back.
network() {
	local name
	name=$(awaited interface_of "$1") || { say "fault no-interface slot=$1"; return 1; }
	say "found slot=$1 name=$name"
	ip link set "$name" up
	ip addr add "$2/24" dev "$name" 2>/dev/null
	[ -n "$(awaited grep 1 "/sys/class/net/$name/carrier")" ] || say "fault no-carrier slot=$1"
	head -c "$5" /dev/urandom >"/tmp/sent$1"
	nc "$3" "$4" <"/tmp/sent$1" >"/tmp/back$1" || say "fault nc slot=$1"
	say "network slot=$1 sent=$(sum "/tmp/sent$1") back=$(sum "/tmp/back$1")"
	rm "/tmp/sent$1" "/tmp/back$1"
}

# Has the guest's own program do it, and says what that prints.
drive() {
	visitor "$@" 2>&1 | while read -r line; do say "$line"; done
}

# io NODE DEPTH WRITES MILLISECONDS: how fast a disk is.
io() { drive io "/dev/$1" "depth=$2" "writes=$3" "milliseconds=$4"; }

# bring_up NODE: loads the drivers, and waits for the disk.
bring_up() {
	load_modules
	awaited ls "/dev/$1" >/dev/null 2>&1 || say "fault no-disk $1"
}

# rebind NODE: takes the disk from its driver, and gives it back.
rebind() {
	local driver=/sys/bus/pci/drivers/nvme device
	device=$(cd "$driver" && ls -d 0000:*)
	echo "$device" >"$driver/unbind"
	echo "$device" >"$driver/bind"
	awaited ls "/dev/$1" >/dev/null 2>&1 || say "fault no-disk $1"
}

edu() {
	drive edu "$(path_of "$1")" "slot=$1"
	pins "$1"
}

# The pin of a function that Linux has no driver for, by its driver for programs in user space.
pins() {
	local device=$(path_of "$1")
	echo uio_pci_generic >"$device/driver_override"
	echo "${device##*/}" >/sys/bus/pci/drivers_probe
	drive edu-pin "$device" "slot=$1"
	say "line slot=$1 number=$(cat "$device/irq")"
	echo "${device##*/}" >/sys/bus/pci/drivers/uio_pci_generic/unbind
}
# shared_line SLOT SLOT ADDRESS...: a network works while another function's pin is raised.
shared_line() {
	local network=$1 other=$2
	shift 2
	network "$network" "$@" &
	pins "$other"
	wait
	say "network-line slot=$network number=$(cat "$(path_of "$network")/irq")"
}
testdev() { drive testdev "$(path_of "$1")" "slot=$1"; }
memory() { drive memory "$(path_of "$1")" "slot=$1"; }

# The disk is read while all but the first processor go and come back, which moves its queues' interrupts.
processors_go_and_come() {
	local node round=0 processor
	node=/dev/$(awaited block_of "$1")
	(while [ ! -e "/tmp/enough$1" ]; do dd if="$node" of=/dev/null bs=65536 iflag=direct 2>/dev/null || say "fault read slot=$1"; done) &
	while [ $round -lt 5 ]; do
		for processor in /sys/devices/system/cpu/cpu[1-9]*; do
			echo 0 >"$processor/online" || say "fault offline slot=$1"
			echo 1 >"$processor/online" || say "fault online slot=$1"
		done
		round=$((round + 1))
	done
	touch "/tmp/enough$1"
	wait
	rm "/tmp/enough$1"
	say "moved slot=$1 rounds=$round processors=$(nproc) sha256=$(sum "$node")"
}

# The driver has a name for the function, and gives it back.
without_driver() {
	local driver function
	driver=$(readlink -f "$(path_of "$1")/driver")
	function=$(basename "$(path_of "$1")")
	echo "$function" >"$driver/unbind"
	drive "$2" "$(path_of "$1")" "slot=$1"
	echo "$function" >"$driver/bind"
}
large_bar() { without_driver "$1" large; }

rom() {
	local file
	file=$(path_of "$1")/rom
	echo 1 >"$file"
	say "rom slot=$1 sha256=$(sum "$file")"
	echo 0 >"$file"
}

# The numbers of the function's interrupts: of its messages, else of its pin.
numbers_of() {
	local messages
	messages=$(ls "$(path_of "$1")/msi_irqs" 2>/dev/null)
	if [ -n "$messages" ]; then echo "$messages"; else cat "$(path_of "$1")/irq"; fi
}

# The lines of /proc/interrupts that are the function's.
interrupts_of() {
	local number
	for number in $(numbers_of "$1"); do
		grep "^ *$number:" /proc/interrupts | while read -r line; do say "interrupt slot=$1 $line"; done
	done
}

# What a life is made of: the same again and again, by 'again COUNT FUNCTION SLOT', and in the end a look at the disk.
again() {
	local count=$1 done=0
	shift
	while [ $done -lt "$count" ]; do
		"$@" || { say "fault $1 slot=$2 after=$done"; return 1; }
		done=$((done + 1))
	done
	say "again what=$1 slot=$2 count=$done"
}
look() { say "looked slot=$1 sha256=$(sum "/dev/$(awaited block_of "$1")")"; }

# What the guest's kernel says where an interrupt was lost or a command never answered.
grievances() {
	dmesg | grep -iE 'completion polled|timeout, |nobody cared|Tx Unit Hang|Detected .* Hang|I/O error|AER:' | tail -n 5 |
		while read -r line; do say "fault grievance $line"; done
}

rebind() {
	local function driver
	function=$(basename "$(path_of "$1")")
	driver=$(readlink -f "$(path_of "$1")/driver")
	echo "$function" >"$driver/unbind" && echo "$function" >"$driver/bind"
}

# The reset that Linux would choose, which the order names to be sure of it.
reset_by() {
	echo "$1" >"$(path_of "$2")/reset_method" && echo 1 >"$(path_of "$2")/reset"
}
flr() { reset_by flr "$1"; }
pm_reset() { reset_by pm "$1"; }

remove_and_rescan() {
	echo 1 >"$(path_of "$1")/remove"
	echo 1 >/sys/bus/pci/rescan
	[ -n "$(awaited ls -d "$(path_of "$1")/driver")" ]
}
sleep_and_wake() { without_driver "$1" power; }
move() { without_driver "$1" move; }

# e1000e's own option: 0 the pin, 1 MSI, 2 MSI-X.
interrupt_mode() {
	rmmod e1000e && insmod /modules/e1000e.ko "IntMode=$2"
	[ -n "$(awaited interface_of "$1")" ]
}

# moving_interrupts SLOT COUNT ORDER...: the order is carried out while the function's interrupts move from processor
# to processor, at least COUNT times.
moving_interrupts() {
	local slot=$1 count=$2 moved=0 number numbers
	shift 2
	numbers=$(numbers_of "$slot")
	rm -f "/tmp/carried$slot"
	("$@"; touch "/tmp/carried$slot") &
	while [ $moved -lt "$count" ] || [ ! -e "/tmp/carried$slot" ]; do
		for number in $numbers; do
			# What no driver has asked for has no folder.
			[ -e "/proc/irq/$number/smp_affinity" ] || continue
			echo $((moved % 2 + 1)) >"/proc/irq/$number/smp_affinity" || { say "fault affinity slot=$slot irq=$number"; return; }
		done
		moved=$((moved + 1))
		[ $((moved % 100)) -ne 0 ] || say "moving slot=$slot count=$moved"
	done
	wait
	say "moved-interrupts slot=$slot count=$moved"
}

# Reads the disk without end, in the background.
endless() {
	local node
	node=/dev/$(awaited block_of "$1")
	(while dd if="$node" of=/dev/null bs=65536 iflag=direct 2>/dev/null; do say "round slot=$1"; done; say "stopped slot=$1") &
}
# Reads a register without end, in the background.
poll() { drive poll "$(path_of "$1")" "slot=$1" & }
reboot_now() {
	say "rebooting"
	reboot -f
}
# scribble SLOT SEED SECONDS: a driver would keep the BARs to itself.
scribble() {
	local device
	device=$(path_of "$1")
	[ ! -e "$device/driver" ] || echo "${device##*/}" >"$device/driver/unbind"
	drive scribble "$device" "slot=$1" "seed=$2" "seconds=$3"
}

# The function's configuration space: rows that are not zero.
config() {
	hexdump -v -e '"%04_ax" 16/1 " %02x" "\n"' "$(path_of "$1")/config" | grep -v '\( 00\)\{16\}$' |
		while read -r line; do say "config slot=$1 $line"; done
}
