// Package hrl reads, writes and merges replication logs: what changed on one
// disk between two recovery points, as one file or a series of segments. The
// same form goes over the wire, lies in a replica's store as a received log or
// an undo log, and is shipped on media. FORMAT.md beside this file is the
// format, byte by byte.
//
// It is not for deciding what to log, for naming or placing files, or for
// applying them to a disk. It is the one door to the compression library.
//
// Damage is found on opening (header, index, footer) or on reading (frames) and
// comes back as fault.Corrupt, with the file's name and the offset in it; a file
// that a newer program wrote is fault.Refused.
//
// Threading: a Writer belongs to one goroutine. A Reader and a Cache are safe
// for concurrent use.
package hrl
