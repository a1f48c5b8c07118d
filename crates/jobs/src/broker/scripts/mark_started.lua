-- Records that a job which has crashed before starts to run again, so that only a crash from here on counts.
--
-- KEYS[1] inflight  set   ids that the member holds
-- KEYS[2] crashes   hash  id -> crashes; negative while the job runs again
-- ARGV[1] id
--
-- Answer: 1, or 0 if the member no longer holds the job and must not run it.

if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then
    return 0
end
local count = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or 0)
if count > 0 then
    -- Removed first: out of memory, a server lets a script add only after it has freed.
    redis.call('HDEL', KEYS[2], ARGV[1])
    redis.call('HSET', KEYS[2], ARGV[1], -count)
end
return 1
