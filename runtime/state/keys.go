package state

import "slices"

// MaxKept is how many calls of earlier attempts a step remembers by key.
const MaxKept = 10_000

// KeptKey is the key of a call of an earlier attempt: the same call of the next
// one goes out under it, so that who knows the key does it once.
type KeptKey struct{ Name, Hash, Key string }

// dropOps ends a sequence of operations: the next attempt of an action is a
// fresh one. Of this one the keys stay that are not spent.
func (st *Step) dropOps() {
	have, spent := map[string]bool{}, map[string]bool{}
	for _, k := range st.Kept {
		have[k.Key] = true
	}
	kept := slices.Clone(st.Kept)
	for _, op := range st.Ops {
		switch {
		case op.Key == "":
		case op.Spent:
			spent[op.Key] = true
		case !have[op.Key]:
			have[op.Key] = true
			kept = append(kept, KeptKey{op.Name, op.Hash, op.Key})
		}
	}
	st.Ops = nil
	st.Kept = tail(slices.DeleteFunc(kept, func(k KeptKey) bool { return spent[k.Key] }), MaxKept)
}
