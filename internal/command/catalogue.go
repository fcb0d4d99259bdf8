package command

import "github.com/drrun/drrun/internal/ident"

// The catalogue is what a runtime knows (its estate, plans and runs), copied to
// agents of every site so that it can be had back when the runtime's state is
// lost. Agents keep its items whole and know nothing of what is in them.
//
// Runtime → agent; only a runtime of the agent's own estate may use it.
var (
	// CatalogueList names the items that the agent keeps.
	CatalogueList = Verb[CatalogueListRequest, CatalogueListResult]{"catalogue-list"}
	// CataloguePut stores a piece of an item; the item is durable when its last
	// piece is answered. An older version never replaces a newer one.
	CataloguePut = Verb[CataloguePutRequest, Empty]{"catalogue-put"}
	// CatalogueGet returns a piece of an item.
	CatalogueGet = Verb[CatalogueGetRequest, CatalogueGetResult]{"catalogue-get"}
	// CatalogueDrop forgets items.
	CatalogueDrop = Verb[CatalogueDropRequest, Empty]{"catalogue-drop"}
)

// CataloguePiece is the most bytes that one put or get carries; JSON makes a
// third more of them, which a message holds.
const CataloguePiece = 1 << 20

// CatalogueFence is the item whose version is the highest fencing number that
// the estate's runtime has given out. It has no content.
const CatalogueFence = "fence"

// CatalogueItem describes one item.
type CatalogueItem struct {
	// Name is a word, or a word, a slash and a name: "estate", "run/erp-1".
	Name    string `json:"name"`
	Version uint64 `json:"version"`
	// Mark tells two contents of one version apart.
	Mark   string `json:"mark,omitempty"`
	Size   int64  `json:"size"`   // bytes
	SHA256 []byte `json:"sha256"` // of the content
	// Fence is the highest fencing number of the runtime that stored it.
	Fence ident.Fence `json:"fence"`
	// Fault says why the agent cannot give the item out: it is damaged, or a
	// newer agent wrote it.
	Fault string `json:"fault,omitempty"`
}

// CatalogueListRequest asks for the items.
type CatalogueListRequest struct{}

// CatalogueListResult lists them in order of their names.
type CatalogueListResult struct {
	Items []CatalogueItem `json:"items"`
	// Fence is the highest fencing number that this host has seen, in the
	// catalogue or for a machine.
	Fence ident.Fence `json:"fence"`
}

// CataloguePutRequest is one piece of an item; pieces come in order, the first
// at offset 0. Item.Fence is the fencing number of the runtime: a lower one than
// the agent has seen is refused (fault.Conflict).
type CataloguePutRequest struct {
	Item   CatalogueItem `json:"item"`
	Offset int64         `json:"offset"`
	Data   []byte        `json:"data,omitempty"`
	// Replace lets a runtime that has recovered put its version over another one
	// that was stored under a lower fencing number.
	Replace bool `json:"replace,omitempty"`
}

// CatalogueGetRequest asks for the piece of an item that begins at Offset.
type CatalogueGetRequest struct {
	Name   string `json:"name"`
	Offset int64  `json:"offset"`
}

// CatalogueGetResult is that piece, and the item as it is now.
type CatalogueGetResult struct {
	Item CatalogueItem `json:"item"`
	Data []byte        `json:"data,omitempty"`
}

// CatalogueDropRequest names items that are not kept any more.
type CatalogueDropRequest struct {
	Fence ident.Fence `json:"fence"`
	Names []string    `json:"names"`
}
