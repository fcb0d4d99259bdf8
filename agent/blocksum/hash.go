package blocksum

import (
	"bytes"

	"github.com/zeebo/xxh3"
)

// BlockSize is the size of a block in bytes.
const BlockSize = 4096

// RangeBlocks is the number of blocks in a range, the unit in which tables are
// read, written and compared: 8 KiB of table, 4 MiB of disk.
const RangeBlocks = 1024

var zeroPage [BlockSize]byte

// IsZero reports whether p holds only zeros; an empty p does.
func IsZero(p []byte) bool {
	for len(p) > BlockSize {
		if !bytes.Equal(p[:BlockSize], zeroPage[:]) {
			return false
		}
		p = p[BlockSize:]
	}
	return bytes.Equal(p, zeroPage[:len(p)])
}

// BlockCount returns the number of blocks of a disk of size bytes.
func BlockCount(size int64) int64 {
	n := size / BlockSize
	if size%BlockSize != 0 {
		n++
	}
	return n
}

// Hash returns the hash of a block: 0 if and only if content is all zero.
// content is at most BlockSize bytes; a shorter one (the disk's last block) is
// padded with zeros. Hash does not allocate.
func Hash(key uint64, block int64, content []byte) uint64 {
	if len(content) == BlockSize {
		return hashPage(key, block, content)
	}
	var page [BlockSize]byte
	if len(content) > BlockSize {
		panic("internal error: blocksum.Hash of more than one block")
	}
	copy(page[:], content)
	return hashPage(key, block, page[:])
}

func hashPage(key uint64, block int64, page []byte) uint64 {
	if bytes.Equal(page, zeroPage[:]) {
		return 0
	}
	h := xxh3.HashSeed(page, seed(key, block))
	if h == 0 {
		return 1 // 0 is taken by the zero block
	}
	return h
}

// seed mixes the disk's key with the block's index (the finaliser of
// splitmix64), so that equal content at two places has two hashes.
func seed(key uint64, block int64) uint64 {
	z := key + (uint64(block)+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
