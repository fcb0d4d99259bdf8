return function(w)
  w:needs("lb1", "db1")
  w:expect("the routes lead to where the balancer is", function(run)
    local want = { paris = "route 10.10.0.10", lyon = "route 10.20.0.10" }
    return run.type == "test" or #w:effects(want[run.status == "rolled-back" and run.from or run.to]) > 0
  end)
end
