package copies

import (
	"context"

	"github.com/drrun/drrun/internal/command"
)

// Round brings every host up to date that is due.
func (k *Keeper) Round(ctx context.Context) { k.round(ctx) }

// DecodeEstate reads the content of the item estate.
func DecodeEstate(raw []byte) error {
	_, err := decodeEstate(raw)
	return err
}

// DecodeRun reads the content of a run's item.
func DecodeRun(it command.CatalogueItem, raw []byte) error {
	_, _, _, err := decodeRun(it, raw)
	return err
}

// MarkOf is the mark of a record.
var MarkOf = markOf
