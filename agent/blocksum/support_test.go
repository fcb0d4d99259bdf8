package blocksum_test

import (
	"hash/crc32"
	"os"
	"syscall"
	"testing"
)

// Pinned results of Hash.
const (
	hashBlock0 = 0xc6adc767215c5b8e
	hashShort  = 0x8a89593a1a9d7731
)

func crc(p []byte) uint32 { return crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)) }

// allocated returns the bytes a file takes on its disk.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Blocks * 512
}
