package runtime_test

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/drrun/drrun/runtime/store"
)

var errCrash = errors.New("the process died")

// crashStore dies at the n-th journal record: before it is committed, or after.
type crashStore struct {
	store.Store
	mu    sync.Mutex
	left  int
	after bool
	dead  bool
	count int
}

func (c *crashStore) Txn(ctx context.Context, t store.Txn) (int64, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return 0, false, errCrash
	}
	if len(t.Then) == 0 || !strings.Contains(t.Then[0].Key, "/j/") {
		return c.Store.Txn(ctx, t)
	}
	c.count++
	c.left--
	if c.left == 0 && !c.after {
		c.dead = true
		return 0, false, errCrash
	}
	rev, ok, err := c.Store.Txn(ctx, t)
	if c.left == 0 {
		c.dead = true
		return 0, false, errCrash
	}
	return rev, ok, err
}
