package execprov

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/drrun/drrun/agent/provider"
)

// procfs is where the kernel shows processes.
const procfs = "/proc"

// stat is the part of /proc/PID/stat that we use.
type stat struct {
	pid     int
	state   byte
	parent  int
	session int
	started uint64 // clock ticks since boot
	memory  uint64 // bytes of address space; 0: it is ending
}

// dead reports a process that is gone but not yet reaped.
func (s stat) dead() bool { return s.state == 'Z' || s.state == 'X' || s.state == 'x' }

// parseStat reads the content of /proc/PID/stat. The program's name stands in
// parentheses and may hold anything, parentheses and blanks too.
func parseStat(b []byte) (stat, error) {
	bad := func(what string) (stat, error) { return stat{}, fmt.Errorf("cannot read process state: %s", what) }
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return bad("no program name")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:open])))
	if err != nil || pid <= 0 {
		return bad("no process id")
	}
	f := strings.Fields(string(b[end+1:]))
	const state, parent, session, started, memory = 0, 1, 3, 19, 20 // fields 3, 4, 6, 22 and 23 of proc(5)
	if len(f) <= memory || len(f[state]) != 1 {
		return bad("too few fields")
	}
	ppid, err := strconv.Atoi(f[parent])
	if err != nil {
		return bad("no parent")
	}
	sid, err := strconv.Atoi(f[session])
	if err != nil {
		return bad("no session")
	}
	at, err := strconv.ParseUint(f[started], 10, 64)
	if err != nil {
		return bad("no start time")
	}
	size, err := strconv.ParseUint(f[memory], 10, 64)
	if err != nil {
		return bad("no size")
	}
	return stat{pid: pid, state: f[state][0], parent: ppid, session: sid, started: at, memory: size}, nil
}

// gone reports whether a read of procfs failed because the process ended.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) }

// readStat returns the state of a process; fs.ErrNotExist or ESRCH: it ended.
func readStat(pid int) (stat, error) {
	// Read for every process of the host several times a second: without the
	// poller and the growing buffer of os.ReadFile, which cost more than the kernel's part.
	name := procfs + "/" + strconv.Itoa(pid) + "/stat"
	var buf [4096]byte // the kernel writes less than a third of it, and at once
	n, err := readOnce(name, buf[:])
	if err != nil {
		return stat{}, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return parseStat(buf[:n])
}

// readOnce reads the beginning of a file of procfs by one read.
func readOnce(name string, buf []byte) (n int, err error) {
	fd := -1
	if err := unlessInterrupted(func() (err error) {
		fd, err = syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		return err
	}); err != nil {
		return 0, err
	}
	defer syscall.Close(fd) // nothing was written
	err = unlessInterrupted(func() (err error) {
		n, err = syscall.Read(fd, buf)
		return err
	})
	return max(n, 0), err
}

// unlessInterrupted repeats a system call that a signal has cut short.
func unlessInterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// BootID names this boot of the host: process ids mean nothing after another.
func BootID() (string, error) {
	b, err := os.ReadFile(filepath.Join(procfs, "sys/kernel/random/boot_id"))
	if err != nil {
		return "", fmt.Errorf("cannot read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// processes calls f for every process there is.
func processes(f func(stat)) error {
	dir, err := os.Open(procfs)
	if err != nil {
		return fmt.Errorf("cannot list processes: %w", err)
	}
	names, err := dir.Readdirnames(-1)
	_ = dir.Close() // nothing was written
	if err != nil {
		return fmt.Errorf("cannot list processes: %w", err)
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		st, err := readStat(pid)
		if err != nil {
			if gone(err) {
				continue
			}
			return fmt.Errorf("cannot list processes: %w", err)
		}
		f(st)
	}
	return nil
}

// hasToken reports whether a process carries the token of a launch in its
// environment, as far as we may look. Not every process of a machine does: some
// are started with another environment, some write over theirs.
func hasToken(pid int, want string) bool {
	b, err := os.ReadFile(filepath.Join(procfs, strconv.Itoa(pid), "environ"))
	if err != nil || want == "" {
		return false
	}
	entry := []byte(envToken + "=" + want)
	for v := range bytes.SplitSeq(b, []byte{0}) {
		if bytes.Equal(v, entry) {
			return true
		}
	}
	return false
}

// members picks the living processes of a machine out of all: those in the
// session of its leader, those that carry its token, and what they started.
// Where the leader is gone, its id may have been given to the leader of another
// session that is gone as well: what of that session carries no token is in
// doubt.
func members(all []stat, p provider.Process) (ours, doubtful []stat) {
	leader := slices.IndexFunc(all, func(st stat) bool { return st.pid == p.PID })
	reused := leader >= 0 && p.Started != 0 && all[leader].started != p.Started
	member, doubt := map[int]bool{}, map[int]bool{}
	for _, st := range all {
		switch {
		case st.session == p.PID && leader >= 0 && !reused:
			member[st.pid] = true
		case st.started >= p.Started && hasToken(st.pid, p.Launch.Token):
			member[st.pid] = true
		case st.session == p.PID && leader < 0:
			// One that is ending has no environment any more: it is waited for.
			if now, err := readStat(st.pid); err != nil || !now.dead() && now.memory > 0 {
				doubt[st.pid] = !gone(err)
			} else {
				member[st.pid] = !now.dead()
			}
		}
	}
	for more := true; more; {
		more = false
		for _, st := range all {
			if member[st.parent] && !member[st.pid] {
				member[st.pid], more = true, true
			}
		}
	}
	for _, st := range all {
		switch {
		case st.dead():
		case member[st.pid]:
			ours = append(ours, st)
		case doubt[st.pid]:
			doubtful = append(doubtful, st)
		}
	}
	return ours, doubtful
}

// quiet reports whether every thread of a process is stopped.
func quiet(pid int) (bool, error) {
	dir := filepath.Join(procfs, strconv.Itoa(pid), "task")
	names, err := os.ReadDir(dir)
	if err != nil {
		if gone(err) {
			return true, nil
		}
		return false, err
	}
	for _, e := range names {
		b, err := os.ReadFile(filepath.Join(dir, e.Name(), "stat"))
		if err != nil {
			if gone(err) {
				continue
			}
			return false, err
		}
		st, err := parseStat(b)
		if err != nil {
			return false, err
		}
		if st.state != 'T' && st.state != 't' && !st.dead() {
			return false, nil
		}
	}
	return true, nil
}

// living returns those of some processes that still live.
func living(some []stat) []stat {
	return slices.DeleteFunc(slices.Clone(some), func(st stat) bool {
		now, err := readStat(st.pid)
		return gone(err) || err == nil && (now.dead() || now.started != st.started)
	})
}
