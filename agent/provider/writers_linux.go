package provider

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Writers lists the processes, other than this one, that have one of the files
// open for writing, as far as this user may look: a machine that somebody runs
// by hand must not be started a second time on the same disks, and its disks
// are not still.
func Writers(files []string) ([]string, error) {
	want := map[string]bool{}
	for _, f := range files {
		if abs, err := filepath.EvalSymlinks(f); err == nil {
			want[abs] = true
		}
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("cannot look who has the disks open: %w", err)
	}
	var found []string
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if file := writes(pid, want); file != "" {
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)) // it may have ended; only for the message
			found = append(found, fmt.Sprintf("process %d (%s) has %s open", pid, bytes.TrimSpace(name), file))
		}
	}
	return found, nil
}

// writes returns a wanted file that a process has open for writing. What may
// not be looked at, or ends meanwhile, has none.
func writes(pid int, want map[string]bool) string {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	d, err := os.Open(dir)
	if err != nil {
		return ""
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1) // of a process that ends: what is left
	for _, n := range names {
		file, err := os.Readlink(filepath.Join(dir, n))
		if err == nil && want[file] && writable(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, n)) {
			return file
		}
	}
	return ""
}

// writable reads the open flags of a descriptor (octal, proc(5)).
func writable(fdinfo string) bool {
	f, err := os.Open(fdinfo)
	if err != nil {
		return false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(rest), 8, 64)
			return err == nil && flags&uint64(os.O_WRONLY|os.O_RDWR) != 0
		}
	}
	return false
}
