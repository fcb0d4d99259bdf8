package sim

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/recovery"
)

const blockSize = blocksum.BlockSize

// write is one acknowledged write of a machine, and with it the state of the
// machine's disks after it. Writes form a tree: a machine that is started on an
// older state goes on from there. Write 0 is the empty disks.
type write struct {
	id      int
	parent  *write
	machine *model
	at      time.Time
	host    string
	test    bool     // on throw-away disks
	image   []uint32 // by block of all disks, which write is there; 0: zeros
	sums    []uint64 // of the disks, as blocksum has them
	leaf    bool     // nothing was written on top of it
}

// holds reports whether w is other or came after it.
func (w *write) holds(other *write) bool {
	for ; w != nil && w.id >= other.id; w = w.parent {
		if w == other {
			return true
		}
	}
	return false
}

func (w *write) String() string {
	if w == nil {
		return "nothing"
	}
	return fmt.Sprintf("write %d of %s at %s", w.id, w.machine.name, w.host)
}

// model is a machine as the simulation knows it: its disks and all it wrote.
type model struct {
	name   string
	disks  []recovery.Disk
	blocks []int // of each disk
	total  int
	writes []*write
	bySums map[string]*write
}

func newModel(name string, disks []recovery.Disk, blocks []int) *model {
	m := &model{name: name, disks: disks, blocks: blocks, bySums: map[string]*write{}}
	for _, b := range blocks {
		m.total += b
	}
	zero := &write{machine: m, image: make([]uint32, m.total), sums: make([]uint64, len(disks)), leaf: true}
	m.writes = []*write{zero}
	m.bySums[sumKey(zero.sums)] = zero
	return m
}

func sumKey(sums []uint64) string {
	b := make([]byte, 0, 8*len(sums))
	for _, s := range sums {
		b = binary.LittleEndian.AppendUint64(b, s)
	}
	return string(b)
}

// place splits the number of a block of all disks.
func (m *model) place(n int) (disk, block int) {
	for n >= m.blocks[disk] {
		n -= m.blocks[disk]
		disk++
	}
	return disk, n
}

// content is a block as a write left it; 0 is zeros.
func content(id uint32, n int, b []byte) {
	clear(b)
	if id == 0 {
		return
	}
	word := uint64(id)<<32 | uint64(n)<<16 | 0xd15c //nolint:gosec // small numbers
	for i := 0; i < blockSize; i += 64 {
		binary.LittleEndian.PutUint64(b[i:], word)
	}
	binary.LittleEndian.PutUint64(b[blockSize-8:], word*0x9e3779b97f4a7c15)
}

// change makes the write after w: of block 0, which tells the write, and of
// others; those in zero become empty.
func (m *model) change(w *write, blocks []int, zero map[int]bool, test bool) *write {
	next := &write{id: len(m.writes), parent: w, machine: m, test: test, image: slices.Clone(w.image), sums: slices.Clone(w.sums), leaf: !test}
	b := make([]byte, blockSize)
	for _, n := range append([]int{0}, blocks...) {
		disk, block := m.place(n)
		key := m.disks[disk].Key
		content(next.image[n], n, b)
		next.sums[disk] -= blocksum.Hash(key, int64(block), b)
		next.image[n] = uint32(next.id) //nolint:gosec // small numbers
		if zero[n] && n != 0 {
			next.image[n] = 0
		}
		content(next.image[n], n, b)
		next.sums[disk] += blocksum.Hash(key, int64(block), b)
	}
	m.writes = append(m.writes, next)
	if !test { // no point may ever hold what a test wrote
		m.bySums[sumKey(next.sums)] = next
		w.leaf = false
	}
	return next
}

// of returns the state that a point names by its sums; nil: no state the
// machine ever had.
func (m *model) of(p *recovery.Point) *write {
	sums := make([]uint64, len(m.disks))
	for i, d := range m.disks {
		pd, ok := p.Disk(d.Name)
		if !ok {
			return nil
		}
		sums[i] = pd.Sum
	}
	return m.bySums[sumKey(sums)]
}

// decode finds the state that is on disks; read reads a block.
func (m *model) decode(read func(disk, block int, b []byte) error) (*write, error) {
	b, want := make([]byte, blockSize), make([]byte, blockSize)
	if err := read(0, 0, b); err != nil {
		return nil, err
	}
	id := binary.LittleEndian.Uint64(b) >> 32
	if id >= uint64(len(m.writes)) {
		return nil, fmt.Errorf("disk %s begins with what the machine never wrote", m.disks[0].Name)
	}
	w := m.writes[id]
	for n := range m.total {
		disk, block := m.place(n)
		if err := read(disk, block, b); err != nil {
			return nil, err
		}
		content(w.image[n], n, want)
		if string(b) != string(want) {
			return nil, fmt.Errorf("block %d of disk %s has write %d, and the disks begin with write %d, which has write %d there",
				block, m.disks[disk].Name, binary.LittleEndian.Uint64(b)>>32, w.id, w.image[n])
		}
	}
	return w, nil
}
