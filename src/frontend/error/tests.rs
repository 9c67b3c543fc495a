use super::*;

#[test]
fn a_response_holds_severity_code_message_detail_and_hint() {
    assert_eq!(
        ProxyError::TooManyClients.response(),
        b"E\0\0\0\x78SFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0\
          HRaise limits.max_clients in the configuration of the proxy.\0\0"
    );
    let lost = ProxyError::OutcomeUnknown.response();
    let lost = String::from_utf8_lossy(&lost);
    assert!(lost.contains("SERROR\0VERROR\0C08007\0"), "{lost:?}");
    assert!(lost.contains("\0DThe transaction may"), "{lost:?}");
}

#[test]
fn a_nul_in_a_name_cannot_forge_a_field() {
    let error = ProxyError::UnknownDatabase {
        database: "a\0C00000\0".to_owned(),
    };
    let response = error.fatal_response();
    assert!(response.ends_with(b"Mdatabase \"a\0\0"));
}

#[test]
fn messages_are_lower_case_except_names() {
    for error in [
        ProxyError::NoUser,
        ProxyError::AuthenticationTimeout,
        ProxyError::CheckoutTimeout,
        ProxyError::NoNodeAvailable,
        ProxyError::NoFreshReplica { expected: None },
        ProxyError::NotShownYet,
        ProxyError::ConnectionLost,
        ProxyError::TransactionLost,
        ProxyError::ShuttingDown,
        ProxyError::PrimaryChanged,
        ProxyError::Internal,
        ProxyError::LimitExceeded {
            limit: Limit::Message,
        },
        ProxyError::from(StartupFault::NoUser),
    ] {
        let message = error.to_string();
        assert!(
            message.starts_with(|c: char| c.is_ascii_lowercase()),
            "{message}"
        );
        assert!(!message.ends_with('.'), "{message}");
    }
}
