// Package estate is the runtime's catalogue: the estate and the plans that were
// applied, with revisions and their sources; what each machine got for good
// (disk ids, hash keys, the host of its replica); the assignments that follow
// from them and which agents have them; join tokens; and the status of
// everything, asked from the agents.
//
// It runs nothing and fails nothing over (package runtime does), and it reads
// no files and no Lua: bundles arrive as data, a Loader turns them into an
// estate or a plan. The wire and the certificates are behind command.Caller and
// Trust.
//
// A Catalogue is safe for concurrent use; applying is one store transaction,
// one at a time. Values that it returns are copies of the caller.
package estate
