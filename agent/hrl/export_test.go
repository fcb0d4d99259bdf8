package hrl

// SetExtentLimit stands in for MaxExtents, which takes long to reach.
func (w *Writer) SetExtentLimit(n int) { w.limit = n }

// EncodeFrame makes a data frame of one extent at 0 that says it holds
// plainLen bytes, with any stored content.
func EncodeFrame(codec Codec, plainLen int, stored []byte) []byte {
	b, _ := encodeFrame(nil, Data, codec, []span{{0, int64(plainLen)}}, make([]byte, plainLen), stored)
	return append(b, stored...)
}

// Frames returns where the frames begin, and the index.
func (r *Reader) Frames() (pos []int64) {
	for no := range uint32(r.f.Frames) {
		start, _, _, err := r.frameAt(no)
		if err != nil {
			panic(err)
		}
		pos = append(pos, start)
	}
	return append(pos, r.f.indexPos)
}
