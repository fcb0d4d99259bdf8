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
end
