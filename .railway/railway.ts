// The whole Railway project: what `railway config plan` compares and `railway config apply` makes.
//
// railway.json (api) and deploy/railway/{worker,beat}.json say the same for projects that use those files already.
// Railway reads them until 2026-12-01, and a service cannot be under both: `railway config migrate` first.
import { defineRailway, postgres, preserve, project, redis, service } from "railway/iac";

export default defineRailway(() => {
  const database = postgres("Postgres");

  // Holds jobs of `redis` queues: nothing may be evicted, and at most a second is lost when it crashes.
  const queue = redis("redis-queue");
  queue.deploy = {
    startCommand:
      '/bin/sh -c "rm -rf $RAILWAY_VOLUME_MOUNT_PATH/lost+found/ && exec docker-entrypoint.sh redis-server --requirepass $REDIS_PASSWORD --dir $RAILWAY_VOLUME_MOUNT_PATH --save 60 1 --appendonly yes --appendfsync everysec --maxmemory-policy noeviction"',
  };

  // Holds what can be made again: it may evict, and needs no disk.
  const cache = redis("redis-cache");
  cache.deploy = {
    startCommand:
      '/bin/sh -c "exec docker-entrypoint.sh redis-server --requirepass $REDIS_PASSWORD --save \'\' --appendonly no --maxmemory 256mb --maxmemory-policy allkeys-lru"',
  };

  const env = {
    PORT: "8080",
    HOLDFAST_ENV: "production",
    DATABASE_URL: database.env.DATABASE_URL,
    REDIS_URL: queue.env.REDIS_URL,
    REDIS_CACHE_URL: cache.env.REDIS_URL,
    // Secrets are set by hand, once, and kept: `railway variable set HOLDFAST_API_KEY=… --service api`.
    HOLDFAST_API_KEY: preserve(),
    // The api's pre-deploy command brings the schema up to date, before any new process starts.
    HOLDFAST__DATABASE__MIGRATE_AT_START: "false",
  };

  const services = ["api", "worker", "beat"].map((name) =>
    service(name, {
      build: { builder: "DOCKERFILE", dockerfilePath: "Dockerfile.production" },
      start: name,
      // By the one that is deployed first.
      ...(name === "api" ? { preDeploy: "holdfast migrate" } : {}),
      healthcheck: "/health/ready",
      healthcheckTimeout: 300,
      // One or more of each. A tick is one job however many beats run, and with overlap two always do for a moment.
      replicas: 1,
      // The old deployment serves 15 s beside the new one. After SIGTERM a process has 40 s: its own 25 s of grace
      // (server.grace_seconds) and some to spare. Railway's own defaults are 0 and 0.
      deploy: {
        restartPolicyType: "ON_FAILURE",
        restartPolicyMaxRetries: 3,
        overlapSeconds: 15,
        drainingSeconds: 40,
      },
      env,
    }),
  );

  return project("holdfast", {
    resources: [database, queue, cache, ...services],
  });
});
