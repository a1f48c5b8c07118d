-- Drops the inflight set of a member that nobody knows. Its jobs are not touched: those that have data and stand
-- nowhere else come back through inspect.lua and requeue.lua, and a member that is alive after all names the ids
-- it runs with every heartbeat.
--
-- KEYS[1] workers   zset  member -> last heartbeat
-- KEYS[2] lost      zset  members whose jobs were, or are being, taken away
-- KEYS[3] inflight  set   the orphan
-- ARGV[1] member
--
-- Answer: 1, or 0 if the member is known after all

if redis.call('ZSCORE', KEYS[1], ARGV[1]) or redis.call('ZSCORE', KEYS[2], ARGV[1]) == '0' then
    return 0
end
return redis.call('UNLINK', KEYS[3])
