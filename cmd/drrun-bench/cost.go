package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cost is what one piece of work took.
type cost struct {
	wall time.Duration
	wire int64         // bytes on the loopback interface
	cpu  time.Duration // of both ends
}

func median(c []cost) cost {
	s := slices.Clone(c)
	slices.SortFunc(s, func(a, b cost) int { return int(a.wall - b.wall) })
	return s[len(s)/2]
}

// loopback returns the bytes that the loopback interface carried.
func loopback() (int64, error) {
	text, err := os.ReadFile("/sys/class/net/lo/statistics/tx_bytes")
	if err != nil {
		return 0, fmt.Errorf("cannot count wire bytes: %w", err)
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// cpuOf returns the CPU time of a process and of its ended children.
func cpuOf(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const utime, ticks = 11, 100 // field 14 of proc(5), counted after the name; USER_HZ
	var sum int64
	for _, f := range fields[utime : utime+4] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / ticks, nil
}

// peakMemory returns VmHWM of a process in bytes: mapped files included.
func peakMemory(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmHWM", pid)
}

// makeDisk writes a sparse disk: runs of data, half noise and half text, with
// holes between them.
func makeDisk(path string, size, data int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	const run = 4 << 20
	rnd := rand.NewChaCha8([32]byte{7})
	buf := make([]byte, run)
	step := size / max(data/run, 1)
	for n := int64(0); n*run < data; n++ {
		if _, err := rnd.Read(buf[:run/2]); err != nil {
			return err
		}
		for i := run / 2; i < run; i++ {
			buf[i] = "pack my box with five dozen liquor jugs, said the operator.\n"[(i+int(n)*13)%60]
		}
		if _, err := f.WriteAt(buf, n*step); err != nil {
			return err
		}
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Sync()
}

// scatter changes n bytes of a disk in single blocks.
func scatter(path string, rnd *rand.Rand, n int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	block := make([]byte, 4096)
	for ; n > 0; n -= 4096 {
		for i := range block[:2048] {
			block[i] = byte(rnd.Uint32())
		}
		if _, err := f.WriteAt(block, rnd.Int64N(fi.Size()/4096)*4096); err != nil {
			return err
		}
	}
	return f.Sync()
}
