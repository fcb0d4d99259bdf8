package journal

// Keys of what belongs to runs beside their records. All values are JSON.
const (
	HeadPrefix = "runs/" // + run: what lists show of it
	// DroppedPrefix + run: it has ended, and was dropped as the oldest.
	DroppedPrefix = "gone/"
	BlobPrefix    = "blob/"   // + SHA-256 of the value: plan sources and estates of runs
	ClaimsKey     = "claims"  // map[machine]run: one active real run per machine
	FenceKey      = "fencing" // the highest fencing number given out or seen
)
