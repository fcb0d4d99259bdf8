package runtime

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/runtime/program"
)

const (
	proofRange = 4 << 20 // bytes of a range of the block tables
	proofPage  = 4096    // ranges that are asked for at once
	proofNames = 4       // stretches of differing ranges that an error names
)

// proven is the result of a read proof.
type proven struct {
	Bytes int64 `json:"bytes"` // read at each site
	Disks int   `json:"disks"`
}

// proof reads the disks of a machine whole at both sites and compares them: the
// stopped ones at the old site with the point that the new site started from.
// Equal tables only show that all that was read has arrived; this also shows a
// write that was never read.
func (j *job) proof(ctx context.Context) outcome {
	p, ok := j.d.chosen(j.step.Machine)
	if !ok {
		return failed(fault.Errorf(fault.Failed, "%s has no recovery point in this run", j.step.Machine))
	}
	hosts := [2]string{j.machine.FromHost, j.machine.ToHost}
	var read [2]command.ProofResult
	var errs [2]error
	sideBySide(len(hosts), len(hosts), func(i int) { read[i], errs[i] = j.readWhole(ctx, hosts[i], p) })
	for _, err := range errs {
		if err != nil {
			return failed(err)
		}
	}
	if err := j.compareProof(ctx, hosts, read, p); err != nil {
		return failed(err)
	}
	res := proven{Bytes: read[0].Bytes, Disks: len(p.Disks)}
	return outcome{data: res, notes: readThrough(hosts, read), detail: fmt.Sprintf("zero loss, proved: %s read at both sites and equal", quantity.FormatSize(res.Bytes))}
}

// readThrough says which disks were not read past the page cache: what stood in
// memory there is proved, and that the medium has it is likely.
func readThrough(hosts [2]string, read [2]command.ProofResult) (notes []string) {
	for i, host := range hosts {
		how := map[string][]string{}
		for _, d := range read[i].Disks {
			how[d.From] = append(how[d.From], d.Name)
		}
		for _, from := range slices.Sorted(maps.Keys(how)) {
			why := "its file system can do nothing else"
			switch vfs.Source(from) {
			case vfs.Medium:
				continue
			case vfs.Dropped:
				why = "which was emptied before"
			case vfs.Cache:
			default:
				why = "its agent is an older one"
			}
			notes = append(notes, fmt.Sprintf("%s read %s through the page cache: %s", host, strings.Join(how[from], ", "), why))
		}
	}
	return notes
}

// readWhole lets one host read the disks.
func (j *job) readWhole(ctx context.Context, host string, p *recovery.Point) (command.ProofResult, error) {
	k := j.with(func(s *program.Step) { s.Host = host })
	request := func(m command.Meta) command.ProofRequest {
		m.Op += "/" + host
		return command.ProofRequest{Meta: m, Point: p.ID}
	}
	var res command.ProofResult
	err := send(ctx, k, command.Proof, request, &res, func(ctx context.Context, f func(context.Context) error) error { return k.watched(ctx, host, f) })
	if err != nil {
		return res, fault.Errorf(fault.KindOf(err), "read proof of %s: cannot read its disks on %s: %w", j.step.Machine, host, err).
			WithHint("mend the cause, then: drrun resume %s; or go on without the proof, on record: drrun answer %[1]s %q go", j.run.ID, j.step.ID)
	}
	return res, nil
}

// compareProof names what differs: fault.Corrupt.
func (j *job) compareProof(ctx context.Context, hosts [2]string, read [2]command.ProofResult, p *recovery.Point) error {
	var bad []string
	for _, d := range p.Disks {
		a, ok1 := read[0].Disk(d.Name)
		b, ok2 := read[1].Disk(d.Name)
		switch {
		case !ok1 || !ok2:
			bad = append(bad, "disk "+d.Name+" was not read at both sites")
		case a.Size != b.Size:
			bad = append(bad, fmt.Sprintf("disk %s has %d bytes on %s and %d on %s", d.Name, a.Size, hosts[0], b.Size, hosts[1]))
		case a.Sum != b.Sum:
			bad = append(bad, fmt.Sprintf("disk %s differs in %s", d.Name, j.differing(ctx, hosts, d.Name, a.Size)))
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return fault.Errorf(fault.Corrupt, "read proof of %s: %s has writes that %s does not: %s", j.step.Machine, hosts[0], hosts[1], strings.Join(bad, "; ")).
		WithHint("do not commit: drrun rollback %s starts the machines on %s again, where nothing was changed", j.run.ID, hosts[0])
}

// differing names the ranges in which a disk differs between two hosts. That it
// does is known; where is said as far as the hosts answer.
func (j *job) differing(ctx context.Context, hosts [2]string, disk string, size int64) string {
	count := int((size + proofRange - 1) / proofRange)
	var parts []string
	total, from := 0, -1
	flush := func(end int) {
		if from >= 0 && len(parts) < proofNames {
			parts = append(parts, fmt.Sprintf("bytes %d to %d", int64(from)*proofRange, min(int64(end)*proofRange, size)))
		}
		from = -1
	}
	for start := 0; start < count; start += proofPage {
		var sums [2][]byte
		for i, host := range hosts {
			res, err := j.proofRanges(ctx, host, disk, start)
			if err != nil {
				return fmt.Sprintf("places that are not known (%v)", err)
			}
			sums[i] = res.Sums
		}
		n := min(len(sums[0]), len(sums[1])) / 8
		for i := range n {
			switch same := binary.LittleEndian.Uint64(sums[0][8*i:]) == binary.LittleEndian.Uint64(sums[1][8*i:]); {
			case same:
				flush(start + i)
			default:
				total++
				if from < 0 {
					from = start + i
				}
			}
		}
	}
	flush(count)
	return fmt.Sprintf("%d of %d ranges of %s (%s)", total, count, quantity.FormatSize(proofRange), cmp.Or(strings.Join(parts, ", "), "none that the range sums show"))
}

func (j *job) proofRanges(ctx context.Context, host, disk string, start int) (res command.RangesResult, err error) {
	req := command.RangesRequest{Machine: j.step.Machine, Epoch: j.d.epochAt(j.step.Machine, host), Disk: disk, Start: int64(start), Count: proofPage}
	err = j.try(ctx, func(ctx context.Context) (err error) {
		res, err = command.ProofRanges.Call(ctx, j.d.e.caller, host, req)
		return err
	})
	return res, err
}
