return function(w)
  w:needs("worker1", "db1", "queue")

  w:expect("the users were told before anything stopped", function(run)
    if run.type == "planned" then run:before("users are told", "shutdown/db1/stop") end
    return run.type == "test" or run:step("users are told").status == "done"
  end)
  w:expect("one question came after the other, between the data and the worker", function(run)
    if run.type == "test" then return true end
    run:before("db1/ready", "data go")
    run:before("queue/ready", "data go")
    run:before("data go", "workers go")
    run:before("workers go", "worker1/start")
    return true
  end)
  w:expect("the page and the till were asked about when the worker ran", function(run)
    run:before("worker1/ready", "ask twice")
    return run:step("ask twice").status == "done"
  end)
end
