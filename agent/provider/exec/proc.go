package execprov

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// procfs is where the kernel shows processes.
const procfs = "/proc"

// stat is the part of /proc/PID/stat that we use.
type stat struct {
	pid     int
	state   byte
	session int
	started uint64 // clock ticks since boot
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
	const state, session, started = 0, 3, 19 // fields 3, 6 and 22 of proc(5)
	if len(f) <= started || len(f[state]) != 1 {
		return bad("too few fields")
	}
	sid, err := strconv.Atoi(f[session])
	if err != nil {
		return bad("no session")
	}
	at, err := strconv.ParseUint(f[started], 10, 64)
	if err != nil {
		return bad("no start time")
	}
	return stat{pid: pid, state: f[state][0], session: sid, started: at}, nil
}

// gone reports whether a read of procfs failed because the process ended.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) }

// readStat returns the state of a process; fs.ErrNotExist or ESRCH: it ended.
func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(filepath.Join(procfs, strconv.Itoa(pid), "stat"))
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
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
	names, err := os.ReadDir(procfs)
	if err != nil {
		return fmt.Errorf("cannot list processes: %w", err)
	}
	for _, e := range names {
		pid, err := strconv.Atoi(e.Name())
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

// token reports whether a process carries the token of a launch in its
// environment, and whether we may look into that.
func token(pid int, want string) (has, readable bool) {
	b, err := os.ReadFile(filepath.Join(procfs, strconv.Itoa(pid), "environ"))
	if err != nil {
		return false, gone(err)
	}
	if want == "" {
		return false, true
	}
	entry := []byte(envToken + "=" + want)
	for v := range bytes.SplitSeq(b, []byte{0}) {
		if bytes.Equal(v, entry) {
			return true, true
		}
	}
	return false, true
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
