package faultfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// sector is what a disk writes whole or not at all, in bytes.
const sector = 512

// Clone returns a copy of the disk as it is, with what is durable on it and
// what is not. Pages are shared until one of both writes them. Open files and
// locks stay with the first.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.like()
	c.dead = d.dead
	copies := map[*node]*node{}
	c.root = d.copy(c, d.root, copies)
	for _, ch := range d.pending {
		var mine change
		for _, e := range ch {
			m := entry{dir: d.copy(c, e.dir, copies), name: e.name}
			if e.to != nil {
				m.to = d.copy(c, e.to, copies)
			}
			mine = append(mine, m)
		}
		c.pending = append(c.pending, mine)
	}
	c.gen = max(c.gen, d.gen)
	return c
}

// like is an empty disk with the same settings.
func (d *Disk) like() *Disk {
	c := New()
	c.capacity, c.reflink, c.inodes, c.gen = d.capacity, d.reflink, d.inodes, d.gen
	return c
}

// copy copies what is below a node, once, to the disk c.
func (d *Disk) copy(c *Disk, n *node, copies map[*node]*node) *node {
	if m := copies[n]; m != nil {
		return m
	}
	m := &node{inode: n.inode, mode: n.mode, mtime: n.mtime, reflinked: n.reflinked}
	copies[n] = m
	if n.mode.IsDir() {
		m.entries, m.durable = map[string]*node{}, map[string]*node{}
		for name, e := range n.entries {
			m.entries[name] = d.copy(c, e, copies)
		}
		for name, e := range n.durable {
			m.durable[name] = d.copy(c, e, copies)
		}
		return m
	}
	m.content = content{n.content.size, maps.Clone(n.content.pages)}
	m.stable = content{n.stable.size, maps.Clone(n.stable.pages)}
	m.dirty = maps.Clone(n.dirty)
	// From here on no page that both have is of a generation of either.
	n.gen = d.nextGen()
	m.gen = n.gen
	return m
}

// Cut is a power cut: it returns the disk as the machine finds it when it
// starts again, and from then on d gives ErrNoPower to everybody who has it or
// a file of it. What was not synced is drawn from rng; with nil all of it is
// lost.
func (d *Disk) Cut(rng *rand.Rand) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.pending {
		if rng == nil || rng.IntN(2) == 0 {
			continue
		}
		for _, e := range c {
			e.set(e.dir.durable)
		}
	}
	d.pending, d.dead = nil, true
	root := d.survivor(d.root, rng, map[*node]*node{})
	c := d.like()
	c.root = root
	return c
}

// survivor copies what of a tree the power cut left.
func (d *Disk) survivor(n *node, rng *rand.Rand, copies map[*node]*node) *node {
	if m := copies[n]; m != nil {
		return m
	}
	m := d.newNode(n.mode)
	m.inode, m.mtime, m.reflinked = n.inode, n.mtime, n.reflinked
	copies[n] = m
	if n.mode.IsDir() {
		for _, name := range slices.Sorted(maps.Keys(n.durable)) {
			e := d.survivor(n.durable[name], rng, copies)
			m.entries[name], m.durable[name] = e, e
		}
		return m
	}
	m.content = d.left(n, rng)
	m.stable = content{m.content.size, maps.Clone(m.content.pages)}
	return m
}

// left draws what a file holds after the cut: the last state synced, with none,
// all or some of the pages written since, perhaps one of them torn, and with the size
// of then, of now, or, of a file that grew, one between.
func (d *Disk) left(n *node, rng *rand.Rand) content {
	c := content{n.stable.size, maps.Clone(n.stable.pages)}
	if rng == nil || len(n.dirty) == 0 && n.content.size == n.stable.size {
		return c
	}
	part := rng.IntN(3) // 0: none, 1: all
	dirty := slices.Sorted(maps.Keys(n.dirty))
	for _, i := range dirty {
		if part == 1 || part == 2 && rng.IntN(2) == 0 {
			c.put(i, n.content.pages[i])
		}
	}
	if part == 2 && len(dirty) > 0 && rng.IntN(2) == 0 {
		i := dirty[rng.IntN(len(dirty))]
		c.put(i, torn(n.content.pages[i], n.stable.pages[i], 1+rng.IntN(pageSize/sector-1)))
	}
	if part > 0 {
		switch grown := n.content.size - c.size; {
		case part == 1 || rng.IntN(3) == 0:
			c.size = n.content.size
		case grown > 1 && rng.IntN(2) == 0:
			c.size += rng.Int64N(grown)
		}
	}
	for i, p := range c.pages {
		if end := c.size - i*pageSize; end <= 0 {
			delete(c.pages, i)
		} else if end < pageSize {
			last := &page{b: p.b}
			clear(last.b[end:])
			c.pages[i] = last
		}
	}
	return c
}

// torn is a page of which the first sectors were written.
func torn(now, before *page, sectors int) *page {
	t := &page{}
	if before != nil {
		t.b = before.b
	}
	n := sectors * sector
	if now != nil {
		copy(t.b[:n], now.b[:n])
	} else {
		clear(t.b[:n])
	}
	return t
}
