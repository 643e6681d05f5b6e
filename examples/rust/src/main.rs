//! Print the emotion stream: `cargo run -- [ENDPOINT]`

use std::error::Error;

use serde_json::Value;

fn line(message: &Value) -> Option<String> {
    let wall = message["time"]["wall"].as_str()?;
    let state = message["state"].as_str()?;
    let felt = message.get("emotions").filter(|_| state != "abstain");
    Some(match felt {
        None => format!("{wall} unsure - {state}"),
        Some(felt) => {
            let top = felt["top"].as_str()?;
            let scores = felt["scores"].as_array()?.iter().filter_map(Value::as_f64);
            format!("{wall} {top} {:.2} {state}", scores.fold(0.0, f64::max))
        }
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::args().nth(1).unwrap_or("tcp://127.0.0.1:5563".into());
    let socket = zmq::Context::new().socket(zmq::SUB)?;
    socket
        .connect(&endpoint)
        .map_err(|error| format!("{endpoint:?} is no endpoint ({error}): expected tcp://HOST:PORT or ipc://FILE"))?;
    socket.set_subscribe(b"emotion.")?;

    loop {
        let parts = socket.recv_multipart(0)?;
        let message: Value = serde_json::from_slice(&parts[1])?;
        match message["type"].as_str() {
            Some("emotion") => println!("{}", line(&message).ok_or("a window without a time or a state")?),
            Some("session.end") => {
                println!("ended: {}", message["reason"].as_str().unwrap_or_default());
                return Ok(());
            }
            _ => {}
        }
    }
}
