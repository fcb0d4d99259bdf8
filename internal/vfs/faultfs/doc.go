// Package faultfs is two file systems for tests of what is durable.
//
// Disk is a file system in memory that knows what was synced. Cut gives what a
// power cut leaves of it: content that was not synced is lost, kept or torn at
// a sector, file by file and page by page; files made, renamed or removed in a
// folder that was not synced are there or not. FS stands before any vfs.FS, a
// Disk or a real one: it calls a hook before each operation, fails operations
// by rule (the n-th of a kind, by path; EIO, ENOSPC, a short write, an effect
// whose success is not reported) and ends like a killed process.
//
//	disk := faultfs.New()
//	fsys := faultfs.Over(disk)
//	fsys.KillAt(17)          // the 17th change is done in half, then all fails
//	...                      // the program under test runs on fsys
//	disk = disk.Cut(rng)     // after a power cut; after a kill disk itself goes on
//	fsys = faultfs.Over(disk)
//
// It is not for measuring: it has neither latency nor bandwidth. Both are safe
// for concurrent use and start no goroutine, so that they can be used in a
// testing/synctest bubble.
package faultfs
