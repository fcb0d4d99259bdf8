it("gives each answer to one question, wherever the runtime dies", function()
  crash_everywhere(function(w)
    local run = w:planned()
    for _, wait in ipairs { "users are told", "data go", "workers go", "ask twice", "ask twice" } do
      assert.equal(run.waits, { wait })
      run:answer("go")
    end
    assert.equal(run.status, "uncommitted")
  end)
end)
