return function(w)
  w:needs("worker1", "db1", "queue")
  w:needs("worker2", "db1", "queue")
  w:needs("lb1", "worker1", "worker2")
end
