package hrl

import (
	"container/list"
	"sync"
)

// DefaultCache is the size in bytes of the cache that Open gives a Reader.
const DefaultCache = 1 << 20

// Cache keeps the frames unpacked last, so that neighbouring reads do not
// unpack a frame again and again. Several readers may share one: a view over
// many logs has one bound on its memory.
type Cache struct {
	mu    sync.Mutex
	limit int64 // of used; one frame is kept in any case
	used  int64
	byKey map[cacheKey]*list.Element
	lru   *list.List // of *cacheEntry, the last used in front
	in    []byte     // stored form of the frame being read
	spare *decodedFrame
}

type cacheKey struct {
	r     *Reader
	frame uint32
}

type cacheEntry struct {
	key cacheKey
	d   *decodedFrame
}

// NewCache makes a cache of limit bytes of unpacked content; it needs up to
// one frame more. Memory is taken as it is used.
func NewCache(limit int64) *Cache {
	return &Cache{limit: limit, byKey: map[cacheKey]*list.Element{}, lru: list.New()}
}

// use calls fn with an unpacked frame, which is valid until fn returns.
func (c *Cache) use(r *Reader, no uint32, fn func(d *decodedFrame) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := cacheKey{r, no}
	if el, ok := c.byKey[k]; ok {
		c.lru.MoveToFront(el)
		return fn(el.Value.(*cacheEntry).d)
	}
	d := c.spare
	c.spare = nil
	if d == nil {
		d = new(decodedFrame)
	}
	var err error
	if c.in, err = r.readFrame(no, c.in, d); err != nil {
		c.spare = d
		return err
	}
	c.byKey[k] = c.lru.PushFront(&cacheEntry{k, d})
	c.used += d.memory()
	for c.used > c.limit && c.lru.Len() > 1 {
		c.drop(c.lru.Back())
	}
	return fn(d)
}

func (c *Cache) drop(el *list.Element) {
	e := c.lru.Remove(el).(*cacheEntry)
	delete(c.byKey, e.key)
	c.used -= e.d.memory()
	c.spare = e.d
}

// forget drops the frames of a reader.
func (c *Cache) forget(r *Reader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for el := c.lru.Front(); el != nil; {
		next := el.Next()
		if el.Value.(*cacheEntry).key.r == r {
			c.drop(el)
		}
		el = next
	}
}

// memory is what a frame holds; it does not change while it is cached.
func (d *decodedFrame) memory() int64 { return int64(cap(d.plain)) + 16*int64(cap(d.spans)) }
