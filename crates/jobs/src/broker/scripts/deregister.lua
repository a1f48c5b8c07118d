-- A stopping member's last word.
--
-- KEYS[1] workers   zset  member -> last heartbeat
-- KEYS[2] inflight  set   ids that this member holds
-- ARGV[1] member
--
-- Answer: 1, or 0 if the member still holds jobs: then it stays, and would be rescued.

if redis.call('SCARD', KEYS[2]) > 0 then
    return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
