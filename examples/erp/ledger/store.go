package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"
)

// An entry is one slot of a disk, from dataStart on:
//
//	0  4  magic "LDG1"
//	4  4  CRC-32 (IEEE) of bytes 8…63, little-endian
//	8  8  number of the slot, from 0
//	16 8  id of the entry, given by the client
//	24 40 zero
const (
	dataStart = 16 << 20
	slotSize  = 64
	magic     = "LDG1"
)

// disk is a list of slots in a file of fixed size.
type disk struct {
	f     *os.File
	slots uint64
}

func openDisk(path string) (*disk, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if fi.Size() < dataStart+slotSize {
		return nil, errors.Join(fmt.Errorf("disk %s is too small", path), f.Close())
	}
	return &disk{f: f, slots: uint64(fi.Size()-dataStart) / slotSize}, nil
}

// read returns the ids from slot 0 to the first slot that holds none.
func (d *disk) read() ([]uint64, error) {
	var ids []uint64
	r := io.NewSectionReader(d.f, dataStart, int64(d.slots)*slotSize)
	buf := make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(r, buf)
		for off := 0; off+slotSize <= n; off += slotSize {
			id, ok := decodeSlot(buf[off:off+slotSize], uint64(len(ids)))
			if !ok {
				return ids, nil
			}
			ids = append(ids, id)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return ids, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (d *disk) write(first uint64, ids []uint64) error {
	if first+uint64(len(ids)) > d.slots {
		return fmt.Errorf("disk %s is full after %d entries", d.f.Name(), first)
	}
	buf := make([]byte, 0, len(ids)*slotSize)
	for i, id := range ids {
		buf = append(buf, encodeSlot(first+uint64(i), id)...)
	}
	_, err := d.f.WriteAt(buf, dataStart+int64(first)*slotSize)
	return err
}

func encodeSlot(number, id uint64) []byte {
	b := make([]byte, slotSize)
	copy(b, magic)
	binary.LittleEndian.PutUint64(b[8:], number)
	binary.LittleEndian.PutUint64(b[16:], id)
	binary.LittleEndian.PutUint32(b[4:], crc32.ChecksumIEEE(b[8:]))
	return b
}

func decodeSlot(b []byte, number uint64) (id uint64, ok bool) {
	ok = string(b[:4]) == magic && binary.LittleEndian.Uint32(b[4:]) == crc32.ChecksumIEEE(b[8:]) &&
		binary.LittleEndian.Uint64(b[8:]) == number
	return binary.LittleEndian.Uint64(b[16:]), ok
}

// store keeps entries: log disk first and durable, then the ledger disk. One
// goroutine writes; an entry's caller waits until its batch is durable.
type store struct {
	log    *disk // may be nil
	ledger *disk
	lieAt  uint64

	mu  sync.Mutex // guards ids
	ids []uint64

	hold    sync.RWMutex // write-locked while frozen
	frozen  bool
	frozenM sync.Mutex // guards frozen

	queue chan pending
	done  chan struct{}
}

type pending struct {
	id  uint64
	ack chan error
}

// openStore opens the disks and brings the ledger up to its log. A ledger
// that has more than its log is refused: the two disks are not of one instant.
func openStore(logPath, ledgerPath string) (*store, error) {
	s := &store{queue: make(chan pending, 256), done: make(chan struct{})}
	var err error
	if s.ledger, err = openDisk(ledgerPath); err != nil {
		return nil, err
	}
	if s.ids, err = s.ledger.read(); err != nil {
		return nil, err
	}
	if logPath != "" {
		if s.log, err = openDisk(logPath); err != nil {
			return nil, err
		}
		if err := s.replay(); err != nil {
			return nil, err
		}
	}
	go s.commit()
	return s, nil
}

func (s *store) replay() error {
	logged, err := s.log.read()
	if err != nil {
		return err
	}
	if len(s.ids) > len(logged) {
		return fmt.Errorf("the ledger has %d entries, its log only %d: the disks are not of one instant", len(s.ids), len(logged))
	}
	for i, id := range s.ids {
		if logged[i] != id {
			return fmt.Errorf("entry %d is %d in the ledger and %d in the log: the disks are not of one instant", i, id, logged[i])
		}
	}
	missing := logged[len(s.ids):]
	if err := errors.Join(s.ledger.write(uint64(len(s.ids)), missing), s.ledger.f.Sync()); err != nil {
		return err
	}
	s.ids = logged
	return nil
}

// add writes one entry and returns when it is durable.
func (s *store) add(id uint64) error {
	ack := make(chan error, 1)
	s.queue <- pending{id, ack}
	return <-ack
}

// commit is the writer: it takes what waits, makes it durable and answers.
func (s *store) commit() {
	defer close(s.done)
	for p := range s.queue {
		batch := []pending{p}
	fill:
		for len(batch) < cap(s.queue) {
			select {
			case q, ok := <-s.queue:
				if !ok {
					break fill
				}
				batch = append(batch, q)
			default:
				break fill
			}
		}
		s.hold.RLock()
		err := s.writeBatch(batch)
		s.hold.RUnlock()
		for _, q := range batch {
			q.ack <- err
		}
	}
}

func (s *store) writeBatch(batch []pending) error {
	ids := make([]uint64, 0, len(batch))
	for _, p := range batch {
		if s.lieAt == 0 || p.id != s.lieAt {
			ids = append(ids, p.id)
		}
	}
	first := uint64(s.count())
	if s.log != nil {
		if err := errors.Join(s.log.write(first, ids), s.log.f.Sync()); err != nil {
			return err
		}
	}
	err := s.ledger.write(first, ids)
	if err == nil && s.log == nil {
		err = s.ledger.f.Sync()
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.ids = append(s.ids, ids...)
	s.mu.Unlock()
	return nil
}

func (s *store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ids)
}

func (s *store) list() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ids[:len(s.ids):len(s.ids)]
}

// freeze waits for the batch in flight, flushes both disks and holds writes
// until thaw. Freezing twice is one freeze.
func (s *store) freeze() error {
	s.frozenM.Lock()
	defer s.frozenM.Unlock()
	if !s.frozen {
		s.hold.Lock()
		s.frozen = true
	}
	if s.log != nil {
		if err := s.log.f.Sync(); err != nil {
			return err
		}
	}
	return s.ledger.f.Sync()
}

func (s *store) thaw() {
	s.frozenM.Lock()
	defer s.frozenM.Unlock()
	if s.frozen {
		s.frozen = false
		s.hold.Unlock()
	}
}

// close ends the writer and makes both disks durable. No add may follow.
func (s *store) close() error {
	close(s.queue)
	<-s.done
	err := errors.Join(s.ledger.f.Sync(), s.ledger.f.Close())
	if s.log != nil {
		err = errors.Join(err, s.log.f.Sync(), s.log.f.Close())
	}
	return err
}
