package agent

import (
	"context"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/rpc"
)

// mux registers the handlers of all verbs.
func (a *Agent) mux() *rpc.Mux {
	m := rpc.NewMux()
	a.runtimeVerbs(m)
	a.failoverVerbs(m)
	a.agentVerbs(m)
	a.catalogueVerbs(m)
	return m
}

// fromRuntime refuses callers that are not a runtime of this agent's estate.
func (a *Agent) fromRuntime(p transport.Peer) error {
	if p.Runtime == "" || p.Estate != a.estate() {
		return fault.Errorf(fault.Refused, "%s of estate %q may not command host %s", p, p.Estate, a.host())
	}
	return nil
}

// onMachine registers a verb of a runtime on one machine: caller, epoch and
// fencing number are checked before the handler runs.
func onMachine[In, Out any](a *Agent, mux *rpc.Mux, v command.Verb[In, Out], meta func(In) command.Meta,
	h func(ctx context.Context, m *machine, in In) (Out, error)) {
	rpc.Handle(mux, v.Name, func(ctx context.Context, p transport.Peer, in In) (Out, error) {
		var none Out
		if err := a.fromRuntime(p); err != nil {
			return none, err
		}
		m, err := a.machine(meta(in).Machine)
		if err != nil {
			return none, err
		}
		if err := m.admit(meta(in)); err != nil {
			return none, err
		}
		return h(ctx, m, in)
	})
}

// asOperation is onMachine for verbs whose repeated operation id returns the
// first result.
func asOperation[In, Out any](a *Agent, mux *rpc.Mux, v command.Verb[In, Out], again again, meta func(In) command.Meta,
	h func(ctx context.Context, m *machine, in In) (Out, error)) {
	rpc.Handle(mux, v.Name, func(ctx context.Context, p transport.Peer, in In) (Out, error) {
		var none Out
		if err := a.fromRuntime(p); err != nil {
			return none, err
		}
		m, err := a.machine(meta(in).Machine)
		if err != nil {
			return none, err
		}
		rec := m.snapshot()
		if err := m.checkFence(&rec, meta(in)); err != nil {
			return none, err
		}
		return once(ctx, m.ops, meta(in).Op, v.Name, again, func(ctx context.Context) (Out, error) {
			// Only a first call is held to the epoch: a repeated one may ask
			// for the result of what changed it.
			if err := m.admit(meta(in)); err != nil {
				return none, err
			}
			return h(ctx, m, in)
		})
	})
}

// runtimeVerbs registers what a runtime asks in any state.
func (a *Agent) runtimeVerbs(mux *rpc.Mux) {
	rpc.Handle(mux, command.Status.Name, func(ctx context.Context, p transport.Peer, in command.StatusRequest) (command.AgentStatus, error) {
		if err := a.fromRuntime(p); err != nil {
			return command.AgentStatus{}, err
		}
		return a.Status(ctx, in)
	})
	rpc.Handle(mux, command.Assign.Name, func(ctx context.Context, p transport.Peer, in command.AssignRequest) (command.Empty, error) {
		if err := a.fromRuntime(p); err != nil {
			return command.Empty{}, err
		}
		return command.Empty{}, a.assign(ctx, in)
	})
	rpc.Handle(mux, command.Unassign.Name, func(ctx context.Context, p transport.Peer, in command.UnassignRequest) (command.Empty, error) {
		if err := a.fromRuntime(p); err != nil {
			return command.Empty{}, err
		}
		return command.Empty{}, a.unassign(ctx, in)
	})
	rpc.Handle(mux, command.Claim.Name, func(_ context.Context, p transport.Peer, in command.ClaimRequest) (command.ClaimResult, error) {
		if err := a.fromRuntime(p); err != nil {
			return command.ClaimResult{}, err
		}
		m, err := a.machine(in.Machine)
		if err != nil {
			return command.ClaimResult{}, err
		}
		return m.claim(in)
	})
	// Grant is compare-and-set: repeating it is harmless, so it needs no
	// stored result, and its epoch is in the records.
	rpc.Handle(mux, command.Grant.Name, func(ctx context.Context, p transport.Peer, in command.GrantRequest) (command.GrantResult, error) {
		if err := a.fromRuntime(p); err != nil {
			return command.GrantResult{}, err
		}
		m, err := a.machine(in.Machine)
		if err != nil {
			return command.GrantResult{}, err
		}
		return m.grant(ctx, in)
	})
	rpc.Handle(mux, command.Points.Name, func(_ context.Context, p transport.Peer, in command.PointsRequest) (command.PointsResult, error) {
		if err := a.fromRuntime(p); err != nil {
			return command.PointsResult{}, err
		}
		m, err := a.machine(in.Machine)
		if err != nil {
			return command.PointsResult{}, err
		}
		return command.PointsResult{Points: m.points()}, nil
	})
	rpc.Handle(mux, command.Verify.Name, func(ctx context.Context, p transport.Peer, in command.VerifyRequest) (command.VerifyResult, error) {
		if err := a.fromRuntime(p); err != nil {
			return command.VerifyResult{}, err
		}
		m, err := a.machine(in.Machine)
		if err != nil {
			return command.VerifyResult{}, err
		}
		return m.verify(ctx, in)
	})
	rpc.Handle(mux, command.Hold.Name, func(ctx context.Context, p transport.Peer, in command.HoldRequest) (command.HoldResult, error) {
		if err := a.fromRuntime(p); err != nil {
			return command.HoldResult{}, err
		}
		m, err := a.machine(in.Machine)
		if err != nil {
			return command.HoldResult{}, err
		}
		return m.holdPoint(ctx, in)
	})
	rpc.Handle(mux, command.Exec.Name, func(ctx context.Context, p transport.Peer, in command.ExecRequest) (command.ExecResult, error) {
		if err := a.fromRuntime(p); err != nil {
			return command.ExecResult{}, err
		}
		return a.exec(ctx, in)
	})
	onMachine(a, mux, command.Check, func(in command.CheckRequest) command.Meta { return in.Meta },
		func(ctx context.Context, m *machine, in command.CheckRequest) (command.CheckResult, error) {
			return m.check(ctx, in)
		})
	rpc.Handle(mux, command.ProofRanges.Name, func(_ context.Context, p transport.Peer, in command.RangesRequest) (command.RangesResult, error) {
		if err := a.fromRuntime(p); err != nil {
			return command.RangesResult{}, err
		}
		m, err := a.machine(in.Machine)
		if err != nil {
			return command.RangesResult{}, err
		}
		return m.proofRanges(in)
	})
	onMachine(a, mux, command.Written, func(in command.Meta) command.Meta { return in },
		func(ctx context.Context, m *machine, _ command.Meta) (command.WrittenResult, error) {
			return m.written(ctx)
		})
	onMachine(a, mux, command.Room, func(in command.PrepareRequest) command.Meta { return in.Meta },
		func(ctx context.Context, m *machine, in command.PrepareRequest) (command.RoomResult, error) {
			return m.room(ctx, in)
		})
}

// failoverVerbs registers what a run does to a machine.
func (a *Agent) failoverVerbs(mux *rpc.Mux) {
	onMachine(a, mux, command.Lease, func(in command.LeaseRequest) command.Meta { return in.Meta },
		func(_ context.Context, m *machine, in command.LeaseRequest) (command.LeaseResult, error) {
			return m.closeLease(in)
		})
	onMachine(a, mux, command.RoomBack, func(in command.RoomBackRequest) command.Meta { return in.Meta },
		func(ctx context.Context, m *machine, in command.RoomBackRequest) (command.RoomResult, error) {
			return m.roomBack(ctx, in.Point)
		})
	asOperation(a, mux, command.Drain, doAgain, func(in command.DrainRequest) command.Meta { return in.Meta },
		func(ctx context.Context, m *machine, in command.DrainRequest) (command.DrainResult, error) {
			res, err := m.cycle(ctx, cycleOptions{final: in.Final, labels: in.Labels})
			return command.DrainResult{Point: res.Point, Changed: res.Changed, Wire: res.Wire, Took: res.Took, Frozen: res.Frozen,
				Expect: res.Expect, Scan: res.Scan, Read: res.Read}, err
		})
	asOperation(a, mux, command.Stop, doAgain, func(in command.StopRequest) command.Meta { return in.Meta },
		func(ctx context.Context, m *machine, in command.StopRequest) (command.StopResult, error) {
			return m.stop(ctx, in.Within, in.Force, in.Lock)
		})
	asOperation(a, mux, command.Unlock, doAgain, func(in command.Meta) command.Meta { return in },
		func(_ context.Context, m *machine, _ command.Meta) (command.Empty, error) {
			return command.Empty{}, m.update(func(r *record) { r.Locked = false })
		})
	asOperation(a, mux, command.Prepare, doAgain, func(in command.PrepareRequest) command.Meta { return in.Meta },
		func(ctx context.Context, m *machine, in command.PrepareRequest) (command.PrepareResult, error) {
			if in.Test != "" {
				return m.prepareTest(ctx, in)
			}
			return m.prepare(ctx, in)
		})
	asOperation(a, mux, command.Start, doAgain, func(in command.StartRequest) command.Meta { return in.Meta },
		func(ctx context.Context, m *machine, in command.StartRequest) (command.StartResult, error) {
			if in.Test != "" {
				return m.startTest(ctx, in.Test)
			}
			return m.start(ctx, in.Run)
		})
	asOperation(a, mux, command.Commit, doAgain, func(in command.Meta) command.Meta { return in },
		func(ctx context.Context, m *machine, in command.Meta) (command.Empty, error) {
			epoch := in.Epoch
			if epoch == 0 {
				epoch = m.snapshot().Authority.Epoch
			}
			return command.Empty{}, m.commit(ctx, epoch)
		})
	asOperation(a, mux, command.Cleanup, doAgain, func(in command.CleanupRequest) command.Meta { return in.Meta },
		func(ctx context.Context, m *machine, in command.CleanupRequest) (command.Empty, error) {
			return command.Empty{}, m.cleanup(ctx, in.Test)
		})
	asOperation(a, mux, command.Proof, doAgain, func(in command.ProofRequest) command.Meta { return in.Meta },
		func(ctx context.Context, m *machine, in command.ProofRequest) (command.ProofResult, error) {
			return m.readProof(ctx, in.Point)
		})
	asOperation(a, mux, command.Found, doAgain, func(in command.FoundRequest) command.Meta { return in.Meta },
		func(ctx context.Context, m *machine, in command.FoundRequest) (command.FoundResult, error) {
			return m.found(ctx, in)
		})
}

// fromHost refuses callers that are not a host of the machine's assignment.
func (a *Agent) fromHost(p transport.Peer, machine string) (*machine, error) {
	m, err := a.machine(machine)
	if err != nil {
		return nil, err
	}
	h, ok := m.assignment().Host(p.Host)
	if p.Host == "" || p.Host == a.host() || !ok || p.Site != h.Site || p.Estate != a.estate() {
		return nil, fault.Errorf(fault.Refused, "%s has no part in machine %s at host %s", p, machine, a.host())
	}
	return m, nil
}

// fromSender returns the machine's replica if p is the host that sends it here
// under the epoch in force.
func (a *Agent) fromSender(p transport.Peer, machine string, epoch uint64) (*machine, *replica.Machine, error) {
	m, err := a.fromHost(p, machine)
	if err != nil {
		return nil, nil, err
	}
	rec := m.snapshot()
	if epoch != uint64(rec.Authority.Epoch) && !planted.Is(planted.OldStream) || rec.Conflict != nil {
		return nil, nil, fault.Errorf(fault.Conflict, "machine %s: host %s sends for epoch %d, host %s holds %s",
			machine, p.Host, epoch, a.host(), describe(rec.Authority))
	}
	if err := rec.sends(p.Host, a.host()); err != nil {
		return nil, nil, err
	}
	rep := m.replica()
	if rep == nil || rec.Own {
		why := m.roleProblem()
		if why == nil {
			why = fault.Errorf(fault.Unreachable, "host %s is not ready to receive machine %s", a.host(), machine)
		}
		return nil, nil, fault.Errorf(fault.Unreachable, "host %s does not receive machine %s yet: %w", a.host(), machine, why)
	}
	return m, rep, nil
}

// sends refuses a sender that the direction does not name.
func (r *record) sends(from, to string) error {
	for _, p := range r.Authority.Direction {
		if p == (recovery.Pair{From: from, To: to}) && r.role(to) == roleTarget {
			return nil
		}
	}
	return fault.Errorf(fault.Refused, "machine %s is not sent from host %s to host %s: %s", r.Assignment.Machine, from, to, describe(r.Authority))
}

// agentVerbs registers what other agents ask.
func (a *Agent) agentVerbs(mux *rpc.Mux) {
	rpc.Handle(mux, command.Confirm.Name, func(ctx context.Context, p transport.Peer, in command.ConfirmRequest) (command.ConfirmResult, error) {
		m, err := a.fromHost(p, in.Machine)
		if err != nil {
			return command.ConfirmResult{}, err
		}
		a.sawInstance(p.Host, in.Instance)
		if in.Authority.Epoch != 0 {
			m.learn(ctx, in.Authority, p.Host)
		}
		power := m.state(ctx).Power
		rec := m.snapshot()
		return command.ConfirmResult{Authority: rec.Authority, Power: power, Leases: true, Takeover: rec.Takeover}, nil
	})
	rpc.Handle(mux, command.Renew.Name, func(ctx context.Context, p transport.Peer, in command.RenewRequest) (command.RenewResult, error) {
		m, err := a.fromHost(p, in.Machine)
		if err != nil {
			return command.RenewResult{}, err
		}
		return m.renew(ctx, p.Host, in)
	})
	rpc.Handle(mux, command.Tip.Name, a.tip)
	rpc.Handle(mux, command.Clock.Name, a.answerClock)
	rpc.HandleUpload(mux, command.Segment.Name, func(_ context.Context, p transport.Peer, in command.SegmentHeader) (rpc.Sink[command.Empty], error) {
		_, rep, err := a.fromSender(p, in.Machine, uint64(in.Epoch))
		if err != nil {
			return nil, err
		}
		r, err := rep.Receive(in)
		if r == nil || err != nil {
			return nil, err
		}
		return segmentSink{r}, nil
	})
	rpc.Handle(mux, command.Accept.Name, func(ctx context.Context, p transport.Peer, in command.AcceptRequest) (command.AcceptResult, error) {
		m, rep, err := a.fromSender(p, in.Point.Machine, uint64(in.Epoch))
		if err != nil {
			return command.AcceptResult{}, err
		}
		if in.Point.Epoch != in.Epoch {
			return command.AcceptResult{}, fault.Errorf(fault.Conflict, "point %s is of epoch %d, not %d", in.Point.ID, in.Point.Epoch, in.Epoch)
		}
		point, err := rep.Accept(ctx, in.Point, in.Age)
		if err == nil {
			m.nudge()
		}
		return command.AcceptResult{Point: point}, err
	})
	rpc.Handle(mux, command.Ranges.Name, func(_ context.Context, p transport.Peer, in command.RangesRequest) (command.RangesResult, error) {
		_, rep, err := a.fromSender(p, in.Machine, uint64(in.Epoch))
		if err != nil {
			return command.RangesResult{}, err
		}
		return rep.Ranges(in.Disk, in.Start, in.Count)
	})
	rpc.Handle(mux, command.Blocks.Name, func(_ context.Context, p transport.Peer, in command.BlocksRequest) (command.BlocksResult, error) {
		_, rep, err := a.fromSender(p, in.Machine, uint64(in.Epoch))
		if err != nil {
			return command.BlocksResult{}, err
		}
		return rep.Blocks(in.Disk, in.Ranges)
	})
}

// tip opens a sending session. A sender with a newer record teaches us; one
// with an older or another gets ours and sends nothing.
func (a *Agent) tip(ctx context.Context, p transport.Peer, in command.TipRequest) (command.TipResult, error) {
	m, err := a.fromHost(p, in.Machine)
	if err != nil {
		return command.TipResult{}, err
	}
	m.learn(ctx, in.Authority, p.Host)
	if rec := m.snapshot(); !rec.Authority.Same(in.Authority) {
		return command.TipResult{Authority: rec.Authority}, nil
	}
	if rec := m.snapshot(); m.unsettled(&rec) {
		release, err := m.takeRole(ctx)
		if err != nil {
			return command.TipResult{}, err
		}
		m.settle(ctx)
		release()
	}
	_, rep, err := a.fromSender(p, in.Machine, uint64(in.Authority.Epoch))
	if err != nil {
		return command.TipResult{}, err
	}
	res := command.TipResult{Authority: m.snapshot().Authority, NextSeq: rep.NextSeq(), Staged: rep.Staged()}
	if tip, age, ok := rep.Tip(); ok {
		res.Tip, res.Age = &tip, age
	}
	return res, nil
}

// segmentSink is a replica's receiver as an upload's sink.
type segmentSink struct{ *replica.Receiver }

// Commit implements rpc.Sink.
func (s segmentSink) Commit(ctx context.Context) (command.Empty, error) {
	return command.Empty{}, s.Receiver.Commit(ctx)
}
