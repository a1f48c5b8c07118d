//! A mail server that takes mail and keeps it, or misbehaves as the recipient's name asks.
//!
//! | recipient | it |
//! | --- | --- |
//! | `greylisted…@` | answers RCPT with 451 once, and takes the mail the second time |
//! | `busy…@` | answers RCPT with 421 |
//! | `gone…@` | answers RCPT with 550 5.1.1 |
//! | `refused…@` | answers RCPT with 550 5.7.1 |
//! | `full…@` | answers the end of DATA with 552 |
//! | `drop…@` | ends the connection in the middle of DATA |
//! | `stall…@` | says nothing more after DATA |
//! | any other | takes the mail |

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::Authority;

/// A mail that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenMail {
    pub from: String,
    pub to: String,
    /// What the client logged in with: the argument of AUTH PLAIN, base64.
    pub auth: Option<String>,
    /// It came over TLS.
    pub encrypted: bool,
    /// Headers and body, lines ended by CRLF, dots unstuffed.
    pub data: String,
}

impl TakenMail {
    /// The first header of that name, unfolded.
    pub fn header(&self, name: &str) -> Option<String> {
        let head = self.data.split("\r\n\r\n").next()?.replace("\r\n ", " ");
        head.lines().find_map(|line| {
            let (known, value) = line.split_once(": ")?;
            known.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

/// How a server that speaks TLS begins to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// With the first byte.
    Implicit,
    /// When it is asked to, and it takes neither logins nor mail before.
    StartTls,
}

/// A mail server on a port of 127.0.0.1. Ends on drop.
#[derive(Debug)]
pub struct SmtpServer {
    addr: SocketAddr,
    kept: Arc<ServerState>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct ServerState {
    mails: Mutex<Vec<TakenMail>>,
    greylisted: Mutex<HashSet<String>>,
    /// Recipients that were named, whatever became of them.
    asked: watch::Sender<usize>,
    /// Addresses outside ASCII are taken (RFC 6531).
    has_smtputf8: bool,
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl SmtpServer {
    /// Starts listening; it speaks no TLS.
    pub async fn start() -> Result<Self> {
        Self::listen(None, true).await
    }

    /// One that knows ASCII alone in addresses.
    pub async fn without_smtputf8() -> Result<Self> {
        Self::listen(None, false).await
    }

    /// The same with TLS, as a server that the authority knows by this name.
    pub async fn start_with_tls(authority: &Authority, name: &str, how: Encryption) -> Result<Self> {
        Self::listen(Some((authority.acceptor(name)?, how)), true).await
    }

    async fn listen(tls: Option<(TlsAcceptor, Encryption)>, has_smtputf8: bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let kept = Arc::new(ServerState {
            mails: Mutex::default(),
            greylisted: Mutex::default(),
            asked: watch::Sender::new(0),
            has_smtputf8,
        });
        let accepting = tokio::spawn({
            let kept = Arc::clone(&kept);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    // A client that breaks off is what some tests are about.
                    tokio::spawn(serve(stream, tls.clone(), Arc::clone(&kept)));
                }
            }
        });
        Ok(Self {
            addr,
            kept,
            accepting,
        })
    }

    /// `smtp://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("smtp://{}", self.addr)
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What was taken so far, oldest first.
    pub fn mails(&self) -> Vec<TakenMail> {
        self.kept.mails.lock().unwrap().clone()
    }

    /// How often a recipient was named, whatever became of it.
    pub fn asked(&self) -> usize {
        *self.kept.asked.borrow()
    }

    /// Waits until recipients were named so often.
    pub async fn wait_for_asked(&self, count: usize, deadline: Duration) -> Result<()> {
        let mut asked = self.kept.asked.subscribe();
        let waited = tokio::time::timeout(deadline, asked.wait_for(|asked| *asked >= count)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(anyhow!(
                "the mail server waited {deadline:?} in vain for {count} recipients; it has {}",
                self.asked()
            )),
        }
    }
}

/// What a conversation goes over.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

async fn say<S: Wire>(stream: &mut BufStream<S>, line: &str) -> std::io::Result<()> {
    stream.write_all(line.as_bytes()).await?;
    stream.write_all(b"\r\n").await?;
    stream.flush().await
}

/// Ends with the client, or with its own refusal to go on.
async fn serve(
    stream: TcpStream,
    tls: Option<(TlsAcceptor, Encryption)>,
    kept: Arc<ServerState>,
) -> std::io::Result<()> {
    const GREETING: &str = "220 testkit ESMTP";
    let (acceptor, stream) = match tls {
        None => (None, stream),
        Some((acceptor, Encryption::StartTls)) => (Some(acceptor), stream),
        Some((acceptor, Encryption::Implicit)) => {
            let mut stream = BufStream::new(acceptor.accept(stream).await?);
            say(&mut stream, GREETING).await?;
            converse(stream, Security::Encrypted, &kept).await?;
            return Ok(());
        }
    };
    let security = match acceptor {
        Some(_) => Security::Offered,
        None => Security::None,
    };
    let mut stream = BufStream::new(stream);
    say(&mut stream, GREETING).await?;
    if let (Some(stream), Some(acceptor)) = (converse(stream, security, &kept).await?, acceptor) {
        let stream = BufStream::new(acceptor.accept(stream).await?);
        converse(stream, Security::Encrypted, &kept).await?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Security {
    None,
    Offered,
    Encrypted,
}

/// Until the client goes, or asks for TLS: then the wire comes back.
async fn converse<S: Wire>(
    mut stream: BufStream<S>,
    security: Security,
    kept: &ServerState,
) -> std::io::Result<Option<S>> {
    let (mut from, mut to, mut auth) = (String::new(), String::new(), None);
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let command = line.trim_end();
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => {
                let last = match security {
                    Security::Offered => "250 STARTTLS",
                    Security::None | Security::Encrypted => "250 AUTH PLAIN",
                };
                for line in ["250-testkit", "250-8BITMIME"] {
                    say(&mut stream, line).await?;
                }
                if kept.has_smtputf8 {
                    say(&mut stream, "250-SMTPUTF8").await?;
                }
                say(&mut stream, last).await?;
            }
            "STARTTLS" if security == Security::Offered => {
                say(&mut stream, "220 2.0.0 go on").await?;
                return Ok(Some(stream.into_inner()));
            }
            "AUTH" | "MAIL" if security == Security::Offered => {
                say(&mut stream, "530 5.7.0 STARTTLS first").await?;
            }
            "AUTH" => {
                auth = rest.split_once(' ').map(|(_, secret)| secret.to_owned());
                say(&mut stream, "235 2.7.0 welcome").await?;
            }
            "MAIL" => {
                from = between_angles(rest);
                say(&mut stream, "250 2.1.0 ok").await?;
            }
            "RCPT" => {
                to = between_angles(rest);
                let answer = kept.answer_to(&to);
                kept.asked.send_modify(|asked| *asked += 1);
                say(&mut stream, answer).await?;
            }
            "DATA" => {
                say(&mut stream, "354 go on").await?;
                let mail = TakenMail {
                    from: from.clone(),
                    to: to.clone(),
                    auth: auth.clone(),
                    encrypted: security == Security::Encrypted,
                    data: String::new(),
                };
                if !take(&mut stream, mail, kept).await? {
                    return Ok(None);
                }
            }
            "QUIT" => {
                say(&mut stream, "221 2.0.0 bye").await?;
                return Ok(None);
            }
            "RSET" | "NOOP" => say(&mut stream, "250 2.0.0 ok").await?,
            _ => say(&mut stream, "500 5.5.1 what?").await?,
        }
    }
}

fn between_angles(text: &str) -> String {
    let inside = text.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inside.map(|(address, _)| address.to_owned()).unwrap_or_default()
}

impl ServerState {
    fn answer_to(&self, recipient: &str) -> &'static str {
        let first_time = || self.greylisted.lock().unwrap().insert(recipient.to_owned());
        match recipient {
            to if to.starts_with("greylisted") && first_time() => "451 4.7.1 greylisted, come back later",
            to if to.starts_with("busy") => "421 4.3.2 too busy",
            to if to.starts_with("gone") => "550 5.1.1 there is no such mailbox",
            to if to.starts_with("refused") => "550 5.7.1 your mail is not wanted",
            _ => "250 2.1.5 ok",
        }
    }
}

/// The mail's text, and the answer to it; false ends the connection.
async fn take<S: Wire>(
    stream: &mut BufStream<S>,
    mut mail: TakenMail,
    kept: &ServerState,
) -> std::io::Result<bool> {
    if mail.to.starts_with("drop") {
        let mut some = String::new();
        stream.read_line(&mut some).await?;
        return Ok(false);
    }
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(false);
        }
        if line == ".\r\n" {
            break;
        }
        mail.data.push_str(line.strip_prefix('.').unwrap_or(&line));
    }
    if mail.to.starts_with("stall") {
        return std::future::pending().await;
    }
    if mail.to.starts_with("full") {
        say(stream, "552 5.2.2 the mailbox is full").await?;
        return Ok(true);
    }
    kept.mails.lock().unwrap().push(mail);
    say(stream, "250 2.0.0 taken").await?;
    Ok(true)
}
