-- PostgreSQL alone has the functions that enqueue.
select 1;
