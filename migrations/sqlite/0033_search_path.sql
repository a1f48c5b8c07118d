-- PostgreSQL alone has search paths.
select 1;
