it("changes nothing by looking", function()
  local w = world()
  local run = w:test()
  assert.equal(run.status, "uncommitted")
  assert.equal(w:effects("exec"), {})
  assert.equal(w:effects("ssh"), {})
  run:cleanup()
  assert.equal(run.status, "done")
end)

it("may set the routes again, wherever the runtime dies", function()
  crash_everywhere(function(w)
    local run = w:planned()
    if run.status == "waiting" then -- about the note: it was made
      run:answer(#w:effects("desk note") == 2 and "done" or "again")
    end
    assert.equal(run.status, "uncommitted")
  end)
end)
