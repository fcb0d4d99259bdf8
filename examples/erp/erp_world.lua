-- erp_world.lua: what the simulated world of the ERP service is like, for
-- drrun test and drrun explore.
return function(w)
  w:needs("app1", "db1")
  w:needs("app2", "db1")
  for _, name in ipairs { "db1", "app1", "app2" } do
    w:boot(name, "5s") -- the ledger answers soon after its start
  end

  w:expect("Finance was asked when the database ran, before the application started", function(run)
    if run.type == "test" then return true end
    run:before("db1/ready", "go/no-go")
    run:before("go/no-go", "app1/start")
    return true
  end)
  w:expect("the ledger answered before Finance was asked, whose word is about it", function(run)
    if run.type ~= "test" then run:before("ledger answers", "go/no-go") end
    return run:step("ledger answers").status == "done"
  end)
  w:expect("where the service is was noted when it answered", function(run)
    run:before("health of app1", "note where the service is")
    for _, note in ipairs(run.notes) do
      if string.find(note, "the ERP service runs at " .. run.to, 1, true) then return true end
    end
    return false
  end)
end
