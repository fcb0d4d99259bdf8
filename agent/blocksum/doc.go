// Package blocksum keeps, for one disk, a table of one 64-bit hash per 4 KiB
// block, and the whole-disk sum that follows from it. Each side of a
// replication keeps its own table; equal sums and sizes show that the target
// has all that was read.
//
// The hash of a block is xxh3-64 of its content, seeded with the disk's key
// mixed with the block's index; an all-zero block counts 0, so holes, zeros and
// growth cost nothing and the table is a sparse file. The short last block of
// a disk is hashed as if padded with zeros. Sums are taken modulo 2^64.
//
// It is not for proving content against somebody who chooses it (the hash is
// fast, not cryptographic), and it never reads a disk: callers hash and store.
//
// Threading: a Table is safe for concurrent use; calls on disjoint ranges do
// not wait for each other. Resize, CopyTo and Close wait for all others. A
// change is durable after Sync.
//
// # File format, version 1
//
// All numbers are little endian. The file is a header page of 4096 bytes and
// then 8 bytes for each block; holes read as zero. The header's fields and its
// CRC lie in the first 512 bytes, so that an update never tears.
//
//	offset size
//	0      8    magic "DRRBSUM\x00"
//	8      4    format version, 1
//	12     4    must flags: a reader that does not know one refuses the file
//	16     4    may flags: an unknown one is ignored and kept
//	20     4    block size, 4096
//	24     8    key check: xxh3-64 of the magic, seeded with the disk's key
//	32     8    disk size in bytes
//	40     8    block count
//	48     4    CRC32C of bytes 0 to 47
//	52     4044 reserved, written as zero
//	4096   8×n  entries
//
// Magic, version, flags and the header's CRC keep their places in every
// version, so that a newer table is told from a damaged one.
//
// A file longer than its header says is what a crash in Resize leaves; opening
// cuts it. A shorter one is corrupt.
package blocksum
